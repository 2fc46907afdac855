//! As much of HTTP/1.1 as moving octets both ways needs.

use nym_smol_core::Stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use crate::Failure;

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Seconds from the connect call to the first octet of the answer.
    pub first_byte: f64,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// One request on a connection of its own; with a body it is a POST.
pub async fn request(stack: &Stack, url: &str, body: Option<&[u8]>) -> Result<Answer, Failure> {
    let url = Url::parse(url)?;
    if url.scheme() != "http" {
        return Err("only http: the stack has no TLS".into());
    }
    let host = url.host_str().ok_or("no host")?;
    let started = std::time::Instant::now();
    let mut tcp = stack.tcp_connect_host(host, url.port().unwrap_or(80)).await?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.unwrap_or_default();
    let mut path = url.path().to_owned();
    if let Some(query) = url.query() {
        path = format!("{path}?{query}");
    }
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: smolmix_peer\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    tcp.write_all(head.as_bytes()).await?;
    tcp.write_all(body).await?;

    let mut received = Vec::new();
    let mut first_byte = 0.0;
    let head_end = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if tcp.read_buf(&mut received).await? == 0 {
            return Err(format!("the connection ended in the head, after {} octets", received.len()).into());
        }
        if first_byte == 0.0 {
            first_byte = started.elapsed().as_secs_f64();
        }
    };
    let head = String::from_utf8_lossy(&received[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no status line")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: received.split_off(head_end + 4), first_byte };
    let length: Option<usize> = answer.header("content-length").map(str::parse).transpose()?;
    while length.map_or(true, |length| answer.body.len() < length) {
        if tcp.read_buf(&mut answer.body).await? == 0 {
            break;
        }
    }
    match length {
        Some(length) if answer.body.len() != length => {
            Err(format!("{} octets of a body of {length}", answer.body.len()).into())
        }
        _ => Ok(answer),
    }
}
