//! An IPR session over a mixnet stream, and a TCP/IP stack on top of it: what `nym_smolmix::Tunnel` is made of.

use std::time::Duration;

use bytes::Bytes;
use futures::channel::{mpsc, oneshot};
use futures::StreamExt;
use nym_ip_packet_requests::codec::MultiIpPacketCodec;
use nym_ip_packet_requests::response_helpers::{self, MixnetMessageOutcome};
use nym_ip_packet_requests::{best_supported_version, v10, v9, IpPair};
use nym_sdk::ip_packet_client::discovery::{create_nym_api_client, lookup_node_version};
use nym_sdk::mixnet::{MixnetClient, MixnetStream, Recipient};
use nym_smol_core::{ChannelDevice, Stack, StackConfig};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use crate::network::Network;
use crate::{report, Failure};

/// As in `IpMixStream`: SURBs with the stream's opening and with every frame, and the patience with each version.
const REPLY_SURBS: u32 = 10;
const V9_PATIENCE: Duration = Duration::from_secs(60);
const V10_PATIENCE: Duration = Duration::from_secs(15);

/// Which version of the IPR protocol to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// By the node's version in the directory, with v9 after a v10 that is not answered.
    Auto,
    #[value(name = "9")]
    V9,
    #[value(name = "10")]
    V10,
}

pub struct Tunnel {
    pub stack: Stack,
    pub ips: IpPair,
    pub mtu: Option<u16>,
    pub version: u8,
    stop: oneshot::Sender<()>,
    bridge: JoinHandle<Counters>,
}

/// What crossed the tunnel, and what of it could not be used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub packets_sent: u64,
    pub messages_received: u64,
    pub packets_received: u64,
    pub wrong_version: u64,
    pub without_packets: u64,
}

impl Tunnel {
    /// `tcp_buffer` is the TCP window; nym-smolmix keeps the stack's default of 512 KiB.
    pub async fn open(
        network: &Network,
        version: Version,
        tcp_buffer: Option<usize>,
    ) -> Result<Self, Failure> {
        let ipr = network.ipr()?;
        let mut client = network.connect().await?;
        let mut stream = client.open_stream(ipr, Some(REPLY_SURBS)).await?;
        let (ips, mtu, version) = match negotiate(network, &ipr, version, &mut stream).await {
            Ok(session) => session,
            Err(failure) => {
                client.disconnect().await;
                return Err(failure);
            }
        };
        let (outgoing, packets_out) = mpsc::unbounded();
        let (packets_in, incoming) = mpsc::unbounded();
        let (stop, stopped) = oneshot::channel();
        let bridge = Bridge {
            client,
            stream,
            version,
            packets_out,
            packets_in,
            stopped,
            counters: Counters::default(),
        };
        let bridge = tokio::spawn(bridge.run());
        let device = ChannelDevice::new(incoming, outgoing, mtu.map(usize::from));
        let mut config = StackConfig::new(ips.ipv4);
        if let Some(octets) = tcp_buffer {
            config = config.with_tcp_buffer(octets);
        }
        Ok(Tunnel { stack: Stack::new(device, config), ips, mtu, version, stop, bridge })
    }

    /// Leave the mixnet.
    pub async fn close(self) -> Result<Counters, Failure> {
        let _ = self.stop.send(());
        Ok(self.bridge.await?)
    }
}

async fn negotiate(
    network: &Network,
    ipr: &Recipient,
    version: Version,
    stream: &mut MixnetStream,
) -> Result<(IpPair, Option<u16>, u8), Failure> {
    let chosen = match version {
        Version::V9 => v9::VERSION,
        Version::V10 => v10::VERSION,
        Version::Auto => {
            let api = create_nym_api_client(network.details().nym_api_urls())?;
            let node_version = lookup_node_version(&api, ipr.gateway()).await?;
            best_supported_version(&node_version).ok_or("the exit is too old for v9")?
        }
    };
    if chosen == v10::VERSION {
        let patience = if version == Version::Auto { V10_PATIENCE } else { V9_PATIENCE };
        match connect_v10(stream, patience).await? {
            Some((ips, mtu)) => return Ok((ips, Some(mtu), v10::VERSION)),
            None if version == Version::V10 => return Err("no answer to the v10 connect request".into()),
            None => report(json!({"step": "fallback", "from": 10, "to": 9})),
        }
    }
    let ips = connect_v9(stream, V9_PATIENCE).await?.ok_or("no answer to the v9 connect request")?;
    Ok((ips, None, v9::VERSION))
}

async fn connect_v9(stream: &mut MixnetStream, patience: Duration) -> Result<Option<IpPair>, Failure> {
    let (request, id) = v9::new_connect_request(None);
    stream.write_all(&request.to_bytes()?).await?;
    let answer = async {
        loop {
            let data = stream.recv().await.ok_or("the stream was closed")?;
            match v9::response::IpPacketResponse::from_bytes(&data) {
                Ok(response) if response.version == v9::VERSION && response.id() == Some(id) => {
                    return Ok(response_helpers::parse_connect_response(response)?);
                }
                other => unexpected(&data, &other),
            }
        }
    };
    tokio::time::timeout(patience, answer).await.ok().transpose()
}

async fn connect_v10(
    stream: &mut MixnetStream,
    patience: Duration,
) -> Result<Option<(IpPair, u16)>, Failure> {
    let (request, id) = v10::new_connect_request(None);
    stream.write_all(&request.to_bytes()?).await?;
    let answer = async {
        loop {
            let data = stream.recv().await.ok_or("the stream was closed")?;
            match v10::response::IpPacketResponse::from_bytes(&data) {
                Ok(response) if response.version == v10::VERSION && response.id() == Some(id) => {
                    let success = response_helpers::parse_connect_response_v10(response)?;
                    return Ok((success.ips, success.mtu));
                }
                other => unexpected(&data, &other),
            }
        }
    };
    tokio::time::timeout(patience, answer).await.ok().transpose()
}

fn unexpected(data: &[u8], parsed: &dyn std::fmt::Debug) {
    let parsed: String = format!("{parsed:?}").chars().take(200).collect();
    let first: String = data.iter().take(32).map(|octet| format!("{octet:02x}")).collect();
    report(json!({"step": "unexpected", "length": data.len(), "first": first, "parsed": parsed}));
}

/// Carries packets between the stack and the IPR, as nym-smolmix's bridge does: one packet per message.
struct Bridge {
    client: MixnetClient,
    stream: MixnetStream,
    version: u8,
    packets_out: mpsc::UnboundedReceiver<Vec<u8>>,
    packets_in: mpsc::UnboundedSender<Vec<u8>>,
    stopped: oneshot::Receiver<()>,
    counters: Counters,
}

impl Bridge {
    async fn run(mut self) -> Counters {
        loop {
            tokio::select! {
                _ = &mut self.stopped => break,
                Some(packet) = self.packets_out.next() => {
                    if let Err(error) = self.send(packet.into()).await {
                        report(json!({"step": "bridge", "error": error.to_string()}));
                        break;
                    }
                }
                message = self.stream.recv() => match message {
                    Some(data) => if !self.receive(&data) { break },
                    None => {
                        report(json!({"step": "bridge", "error": "the stream was closed"}));
                        break;
                    }
                },
            }
        }
        self.client.disconnect().await;
        self.counters
    }

    async fn send(&mut self, packet: Bytes) -> Result<(), Failure> {
        let bundle = MultiIpPacketCodec::bundle_one_packet(packet);
        let request = match self.version {
            v10::VERSION => v10::new_data_request(bundle),
            _ => v9::new_data_request(bundle),
        };
        self.stream.write_all(&request.to_bytes()?).await?;
        self.counters.packets_sent += 1;
        Ok(())
    }

    /// Hand the packets of a message to the stack; false once the IPR has ended the session.
    fn receive(&mut self, data: &[u8]) -> bool {
        self.counters.messages_received += 1;
        if data.first() != Some(&self.version) {
            self.counters.wrong_version += 1;
            return true;
        }
        match response_helpers::handle_ipr_response(data) {
            Some(MixnetMessageOutcome::IpPackets(packets)) => {
                for packet in packets {
                    self.counters.packets_received += 1;
                    let _ = self.packets_in.unbounded_send(packet.to_vec());
                }
                true
            }
            Some(MixnetMessageOutcome::Disconnect) => {
                report(json!({"step": "bridge", "error": "disconnected by the IPR"}));
                false
            }
            None => {
                self.counters.without_packets += 1;
                true
            }
        }
    }
}
