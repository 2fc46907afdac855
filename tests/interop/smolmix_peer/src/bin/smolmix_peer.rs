//! The real smolmix through somebody's mixnet: one tunnel, then a list of steps; one JSON line per step.
//!
//! Steps: `resolve=NAME`, `get=URL` (checks `X-Sha256` if the answer has one), `upload=URL,OCTETS` (the answer must
//! be JSON with the body's length and sha256), `udp=HOST:PORT,COUNT,SIZE` (an echo server; up to half may get lost),
//! `bulk=HOST:PORT,DOWN,UP`, `parallel=COUNT,URL`, `idle=SECONDS`.
//! The exit code is 0 if all of them succeeded.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Parser;
use nym_smol_core::Stack;
use serde_json::{json, Value};
use smolmix_peer::network::{Network, NetworkOptions};
use smolmix_peer::tunnel::{Tunnel, Version};
use smolmix_peer::{http, log_to_stderr, pattern, report, sha256, Failure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    network: NetworkOptions,
    /// Version of the IPR protocol.
    #[arg(long, value_enum, default_value = "auto")]
    ipr_version: Version,
    /// Seconds that the set-up and each step may take.
    #[arg(long, default_value_t = 120.0)]
    deadline: f64,
    /// Octets of TCP window. The stack goes back to the first missing segment, so a long upload over links that
    /// reorder is faster with less than the default of 512 KiB.
    #[arg(long)]
    tcp_buffer: Option<usize>,
    steps: Vec<String>,
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
    let deadline = Duration::from_secs_f64(arguments.deadline);
    let started = Instant::now();
    let tunnel =
        tokio::time::timeout(deadline, Tunnel::open(&network, arguments.ipr_version, arguments.tcp_buffer))
            .await
            .map_err(|_| "the set-up took too long")??;
    report(json!({
        "step": "setup", "seconds": started.elapsed().as_secs_f64(), "version": tunnel.version, "mtu": tunnel.mtu,
        "ipv4": tunnel.ips.ipv4, "ipv6": tunnel.ips.ipv6,
    }));
    let mut failed = 0;
    for text in &arguments.steps {
        let started = Instant::now();
        let outcome = match tokio::time::timeout(deadline, step(&tunnel.stack, text)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("took too long".into()),
        };
        let mut line = json!({"step": text, "seconds": started.elapsed().as_secs_f64()});
        match outcome {
            Ok(facts) => line.as_object_mut().unwrap().extend(facts.as_object().cloned().unwrap_or_default()),
            Err(failure) => {
                failed += 1;
                line["error"] = failure.to_string().into();
            }
        }
        report(line);
    }
    let counters =
        tokio::time::timeout(deadline, tunnel.close()).await.map_err(|_| "the end took too long")??;
    report(json!({
        "step": "end", "packets_sent": counters.packets_sent, "messages_received": counters.messages_received,
        "packets_received": counters.packets_received, "wrong_version": counters.wrong_version,
        "without_packets": counters.without_packets,
    }));
    if failed > 0 {
        return Err(format!("{failed} steps failed").into());
    }
    Ok(())
}

async fn step(stack: &Stack, text: &str) -> Result<Value, Failure> {
    let (kind, argument) = text.split_once('=').ok_or("expected KIND=ARGUMENT")?;
    let words: Vec<&str> = argument.split(',').collect();
    match (kind, words.as_slice()) {
        ("resolve", [name]) => Ok(json!({"addresses": stack.resolve(name).await?})),
        ("get", [url]) => get(stack, url).await,
        ("upload", [url, octets]) => upload(stack, url, octets.parse()?).await,
        ("udp", [destination, count, size]) => udp(stack, destination, count.parse()?, size.parse()?).await,
        ("bulk", [destination, down, up]) => {
            bulk(stack, destination.parse()?, down.parse()?, up.parse()?).await
        }
        ("parallel", [count, url]) => parallel(stack, count.parse()?, url).await,
        ("idle", [seconds]) => {
            tokio::time::sleep(Duration::from_secs_f64(seconds.parse()?)).await;
            Ok(json!({}))
        }
        _ => Err("no such step".into()),
    }
}

async fn get(stack: &Stack, url: &str) -> Result<Value, Failure> {
    let answer = http::request(stack, url, None).await?;
    let digest = sha256(&answer.body);
    if answer.status != 200 {
        return Err(format!("status {}", answer.status).into());
    }
    if answer.header("x-sha256").is_some_and(|expected| expected != digest) {
        return Err("the body is not what was sent".into());
    }
    Ok(
        json!({"status": answer.status, "length": answer.body.len(), "sha256": digest, "first_byte": answer.first_byte}),
    )
}

async fn upload(stack: &Stack, url: &str, octets: usize) -> Result<Value, Failure> {
    let body = pattern(octets as u64, octets);
    let answer = http::request(stack, url, Some(&body)).await?;
    let told: Value = serde_json::from_slice(&answer.body)?;
    if told["length"] != json!(octets) || told["sha256"] != json!(sha256(&body)) {
        return Err(format!("the server received something else: {told}").into());
    }
    Ok(json!({"status": answer.status, "length": octets, "sha256": told["sha256"]}))
}

async fn parallel(stack: &Stack, count: usize, url: &str) -> Result<Value, Failure> {
    let answers = futures::future::join_all((0..count).map(|_| get(stack, url))).await;
    let mut length = 0;
    for answer in answers {
        length += answer?["length"].as_u64().unwrap_or_default();
    }
    Ok(json!({"connections": count, "length": length}))
}

async fn udp(stack: &Stack, destination: &str, count: u64, size: usize) -> Result<Value, Failure> {
    let (host, port) = destination.rsplit_once(':').ok_or("expected HOST:PORT")?;
    let address = *stack.resolve(host).await?.first().ok_or("no address")?;
    let destination = SocketAddr::new(address, port.parse()?);
    let socket = stack.udp_socket().await?;
    let mut echoed = 0;
    for number in 0..count {
        let sent = pattern(number, size);
        socket.send_to(&sent, destination).await?;
        let mut buffer = vec![0; 65536];
        let echo = async {
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await?;
                if from == destination && buffer[..length] == sent[..] {
                    return Ok::<(), std::io::Error>(());
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), echo).await.is_ok_and(|done| done.is_ok()) {
            echoed += 1;
        }
    }
    if echoed * 2 < count || echoed == 0 {
        return Err(format!("{echoed} of {count} datagrams came back").into());
    }
    Ok(json!({"sent": count, "echoed": echoed}))
}

/// A target that is told how many octets to send and to expect: two u64 (down, up), answered by one octet; after the
/// upload another octet; then the download, where octet i is i modulo 251.
async fn bulk(stack: &Stack, destination: SocketAddr, down: usize, up: usize) -> Result<Value, Failure> {
    let started = Instant::now();
    let mut tcp = stack.tcp_connect(destination).await?;
    let connected = started.elapsed().as_secs_f64();
    tcp.write_all(&[(down as u64).to_be_bytes(), (up as u64).to_be_bytes()].concat()).await?;
    tcp.read_u8().await?;
    let first_byte = started.elapsed().as_secs_f64();
    if up > 0 {
        tcp.write_all(&pattern(up as u64, up)).await?;
        tcp.read_u8().await?;
    }
    let mut received = Vec::with_capacity(down);
    while received.len() < down {
        if tcp.read_buf(&mut received).await? == 0 {
            return Err(format!("the connection ended after {} octets", received.len()).into());
        }
    }
    if received.len() != down
        || !received.iter().enumerate().all(|(at, octet)| usize::from(*octet) == at % 251)
    {
        return Err("the octets are not those that were sent".into());
    }
    let total = started.elapsed().as_secs_f64();
    Ok(
        json!({"connect": connected, "first_byte": first_byte, "total": total, "kB_per_s": (down + up) as f64 / total / 1000.0}),
    )
}
