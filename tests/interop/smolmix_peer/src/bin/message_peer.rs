//! nym-sdk's plain message client: messages and replies through SURBs. One JSON line per message.
//!
//! `pair` runs two clients (the second at the exit's gateway) that write to each other; `echo` answers every message
//! through its SURBs until `--count` of them, after printing its address; `send ADDRESS` expects an echo.

use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use nym_sdk::mixnet::{IncludedSurbs, MixnetClient, MixnetMessageSender, Recipient, ReconstructedMessage};
use serde_json::json;
use smolmix_peer::network::{Network, NetworkOptions};
use smolmix_peer::{log_to_stderr, pattern, report, sha256, Failure};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    network: NetworkOptions,
    /// Octets per message.
    #[arg(long, value_delimiter = ',', default_value = "1,1500,10000,100000")]
    sizes: Vec<usize>,
    /// SURBs that go with a message.
    #[arg(long, default_value_t = 10)]
    surbs: u32,
    /// Seconds to wait for each message.
    #[arg(long, default_value_t = 60.0)]
    deadline: f64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Pair,
    Echo {
        #[arg(long)]
        count: usize,
    },
    Send {
        address: String,
    },
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    log_to_stderr();
    match run(Arguments::parse()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            report(json!({"step": "failed", "error": failure.to_string()}));
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let network = Network::from_options(&arguments.network)?;
    let patience = Duration::from_secs_f64(arguments.deadline);
    match &arguments.command {
        Command::Pair => pair(&network, &arguments, patience).await,
        Command::Echo { count } => echo(&network, *count, patience).await,
        Command::Send { address } => send(&network, address.parse()?, &arguments, patience).await,
    }
}

async fn connect(network: &Network, name: &str) -> Result<MixnetClient, Failure> {
    let started = Instant::now();
    let client = network.connect().await?;
    let address = client.nym_address().to_string();
    report(
        json!({"step": "connected", "client": name, "address": address, "seconds": started.elapsed().as_secs_f64()}),
    );
    Ok(client)
}

async fn next(client: &mut MixnetClient, patience: Duration) -> Result<ReconstructedMessage, Failure> {
    let message = async {
        loop {
            let messages = client.wait_for_messages().await.ok_or("the client was disconnected")?;
            // The client never hands over more than one message at a time, but its interface could.
            if let Some(message) = messages.into_iter().next() {
                return Ok::<_, Failure>(message);
            }
        }
    };
    tokio::time::timeout(patience, message).await.map_err(|_| "no message in time")?
}

fn same(received: &ReconstructedMessage, sent: &[u8]) -> Result<(), Failure> {
    if received.message == sent {
        return Ok(());
    }
    Err(format!(
        "{} octets with sha256 {} came instead of {}",
        received.message.len(),
        sha256(&received.message),
        sent.len()
    )
    .into())
}

async fn pair(network: &Network, arguments: &Arguments, patience: Duration) -> Result<(), Failure> {
    let mut elsewhere = network.clone();
    elsewhere.gateway = network.ipr.map(|ipr| ipr.gateway().to_base58_string()).or(elsewhere.gateway);
    let mut first = connect(network, "first").await?;
    let mut second = connect(&elsewhere, "second").await?;
    let (to_first, to_second) = (*first.nym_address(), *second.nym_address());
    for (number, &size) in arguments.sizes.iter().enumerate() {
        let (question, answer) = (pattern(2 * number as u64, size), pattern(2 * number as u64 + 1, size));
        let started = Instant::now();
        first.send_message(to_second, &question, IncludedSurbs::new(arguments.surbs)).await?;
        let received = next(&mut second, patience).await?;
        same(&received, &question)?;
        let there = started.elapsed().as_secs_f64();
        let tag = received.sender_tag.ok_or("the message came without SURBs")?;
        second.send_reply(tag, &answer).await?;
        same(&next(&mut first, patience).await?, &answer)?;
        report(
            json!({"step": "anonymous", "size": size, "there": there, "seconds": started.elapsed().as_secs_f64()}),
        );
    }
    for (from, to, name) in [(&first, &to_second, "second"), (&second, &to_first, "first")] {
        from.send_message(*to, name, IncludedSurbs::ExposeSelfAddress).await?;
    }
    for (client, name) in [(&mut second, "second"), (&mut first, "first")] {
        let received = next(client, patience).await?;
        same(&received, name.as_bytes())?;
        report(json!({"step": "plain", "to": name, "tag": received.sender_tag.is_some()}));
    }
    first.disconnect().await;
    second.disconnect().await;
    report(json!({"step": "end"}));
    Ok(())
}

async fn echo(network: &Network, count: usize, patience: Duration) -> Result<(), Failure> {
    let mut client = connect(network, "echo").await?;
    for _ in 0..count {
        let message = next(&mut client, patience).await?;
        let tag = message.sender_tag.ok_or("the message came without SURBs")?;
        client.send_reply(tag, &message.message).await?;
        report(json!({"step": "echo", "size": message.message.len(), "sha256": sha256(&message.message)}));
    }
    // The last answer may still wait for SURBs or for its pace.
    tokio::time::sleep(Duration::from_secs(5)).await;
    client.disconnect().await;
    report(json!({"step": "end"}));
    Ok(())
}

async fn send(
    network: &Network,
    to: Recipient,
    arguments: &Arguments,
    patience: Duration,
) -> Result<(), Failure> {
    let mut client = connect(network, "send").await?;
    for (number, &size) in arguments.sizes.iter().enumerate() {
        let question = pattern(number as u64, size);
        let started = Instant::now();
        client.send_message(to, &question, IncludedSurbs::new(arguments.surbs)).await?;
        same(&next(&mut client, patience).await?, &question)?;
        report(json!({"step": "echoed", "size": size, "seconds": started.elapsed().as_secs_f64()}));
    }
    client.disconnect().await;
    report(json!({"step": "end"}));
    Ok(())
}
