//! The published crate's side of bench_sphinx.py: least microseconds per operation, as JSON.
#![allow(deprecated)]

use sphinx_packet::header::delays::Delay;
use sphinx_packet::route::{
    Destination, DestinationAddressBytes, Node, NodeAddressBytes,
};
use sphinx_packet::version::Version;
use sphinx_packet::{SphinxPacket, SphinxPacketBuilder};
use std::time::Instant;
use x25519_dalek::{PublicKey, StaticSecret};

const VERSION: Version = Version(259);
const REGULAR: usize = 2065;
const ACK: usize = 38;

fn least(rounds: usize, mut run: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..20 {
            run();
        }
        best = best.min(start.elapsed().as_secs_f64() / 20.0);
    }
    best * 1e6
}

fn main() {
    let rounds = std::env::args().nth(1).map_or(40, |text| text.parse().unwrap());
    let secrets: Vec<StaticSecret> = (0..4u8)
        .map(|index| StaticSecret::from([index * 7 + 3; 32]))
        .collect();
    let route: Vec<Node> = secrets
        .iter()
        .map(|secret| Node::new(NodeAddressBytes::from_bytes([4; 32]), PublicKey::from(secret)))
        .collect();
    let destination = Destination::new(DestinationAddressBytes::from_bytes([9; 32]), [0; 16]);
    let delays: Vec<Delay> = (0..4).map(|_| Delay::new_from_nanos(1)).collect();
    let build = |message: &[u8], size: usize, hops: usize| {
        SphinxPacketBuilder::new()
            .with_payload_size(size)
            .with_version(VERSION)
            .build_packet(message, &route[..hops], &destination, &delays[..hops])
            .unwrap()
    };
    let (data, ack) = (vec![5u8; REGULAR - 17], vec![5u8; ACK - 17]);
    let forward = build(&data, REGULAR, 4).to_bytes();
    let last = build(&data, REGULAR, 1).to_bytes();
    println!(
        "{{\"build data\": {:.1}, \"build ack\": {:.1}, \"unwrap forward\": {:.1}, \"unwrap final\": {:.1}}}",
        least(rounds, || drop(build(&data, REGULAR, 4))),
        least(rounds, || drop(build(&ack, ACK, 4))),
        least(rounds, || drop(SphinxPacket::from_bytes(&forward).unwrap().process(&secrets[0]).unwrap())),
        least(rounds, || drop(SphinxPacket::from_bytes(&last).unwrap().process(&secrets[0]).unwrap())),
    );
}
