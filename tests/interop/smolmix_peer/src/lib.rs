//! The real smolmix and the real nym-sdk as peers of a localnet.
//!
//! nym-smolmix and `IpMixStream` reach the mainnet only. This crate puts the same published pieces together for
//! a network of the caller's choice: `MixnetClientBuilder` with its own network details, `open_stream`, the IPR
//! messages of nym-ip-packet-requests (v9 and v10), and the smoltcp stack of nym-smol-core.

pub mod http;
pub mod network;
pub mod tunnel;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Print one JSON object as a line of its own, at once.
pub fn report(value: serde_json::Value) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}");
    let _ = out.flush();
}

/// Send the crates' logs to stderr when `RUST_LOG` is set.
pub fn log_to_stderr() {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
}

/// `length` octets that differ from message to message: a xorshift sequence from `seed`.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut octets = Vec::with_capacity(length + 8);
    while octets.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        octets.extend_from_slice(&state.to_be_bytes());
    }
    octets.truncate(length);
    octets
}

pub fn sha256(data: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(data).iter().map(|octet| format!("{octet:02x}")).collect()
}
