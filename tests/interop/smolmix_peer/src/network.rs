//! Which network to use, and a connected mixnet client on it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nym_network_defaults::{ApiUrl, ValidatorDetails};
use nym_sdk::mixnet::{
    MixnetClient, MixnetClientBuilder, MixnetClientStorage, NymNetworkDetails, Recipient, StoragePaths,
};
use nym_sdk::DebugConfig;
use serde_json::Value;

use crate::Failure;

#[derive(Args, Clone, Debug)]
pub struct NetworkOptions {
    /// File with what `python -m smolmix_sync.localnet --json` prints.
    #[arg(long)]
    network: Option<PathBuf>,
    /// Base URL of nym-api; overrides the file.
    #[arg(long)]
    nym_api: Option<String>,
    /// Identity key of the entry gateway; overrides the file.
    #[arg(long)]
    gateway: Option<String>,
    /// Nym address of the IP packet router; overrides the file.
    #[arg(long)]
    ipr: Option<String>,
    /// Keep keys and the gateway's registration in this directory, to authenticate at the next start.
    #[arg(long)]
    storage: Option<PathBuf>,
    /// Send real traffic without the Poisson pace and no cover traffic.
    #[arg(long)]
    unpaced: bool,
    /// Mean delay asked of each hop, in milliseconds; the client's default is 15.
    #[arg(long)]
    hop_delay: Option<u64>,
}

/// A network as the real client must be told about it.
#[derive(Clone, Debug)]
pub struct Network {
    pub nym_api: String,
    pub gateway: Option<String>,
    pub ipr: Option<Recipient>,
    storage: Option<PathBuf>,
    unpaced: bool,
    hop_delay: Option<Duration>,
}

impl Network {
    pub fn from_options(options: &NetworkOptions) -> Result<Self, Failure> {
        let file: Value = match &options.network {
            Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
            None => Value::Null,
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let ipr = match &file["ipr"] {
            Value::Array(addresses) => addresses.first().and_then(text),
            other => text(other),
        };
        let nym_api = options.nym_api.clone().or_else(|| text(&file["nym_api"])).ok_or("no nym-api given")?;
        let gateway = options
            .gateway
            .clone()
            .or_else(|| text(&file["gateway"]))
            .or_else(|| text(&file["entry_gateway"]));
        let ipr = options.ipr.clone().or(ipr);
        Ok(Network {
            nym_api,
            gateway,
            ipr: ipr.map(|address| address.parse()).transpose()?,
            storage: options.storage.clone(),
            unpaced: options.unpaced,
            hop_delay: options.hop_delay.map(Duration::from_millis),
        })
    }

    pub fn ipr(&self) -> Result<Recipient, Failure> {
        Ok(self.ipr.ok_or("no address of an IP packet router given")?)
    }

    /// The network's details, with nothing of the mainnet in them.
    ///
    /// Half of the client reads `endpoints[0].api_url` and the other half `nym_api_urls`.
    pub fn details(&self) -> NymNetworkDetails {
        let api = ApiUrl { url: self.nym_api.clone(), front_hosts: None };
        let nyxd = "http://127.0.0.1:1".to_owned();
        NymNetworkDetails::new_empty()
            .with_network_name("localnet".to_owned())
            .with_bech32_account_prefix("n")
            .with_additional_validator_endpoint(ValidatorDetails::new(nyxd, Some(self.nym_api.clone()), None))
            .with_nym_api_urls(vec![api])
    }

    /// Register (or authenticate, with a `--storage` used before) and connect.
    pub async fn connect(&self) -> Result<MixnetClient, Failure> {
        match &self.storage {
            None => self.start(MixnetClientBuilder::new_ephemeral()).await,
            Some(directory) => {
                let paths = StoragePaths::new_from_dir(directory)?;
                self.start(MixnetClientBuilder::new_with_default_storage(paths).await?).await
            }
        }
    }

    async fn start<S>(&self, builder: MixnetClientBuilder<S>) -> Result<MixnetClient, Failure>
    where
        S: MixnetClientStorage + Clone + 'static,
        S::ReplyStore: Send + Sync,
        S::GatewaysDetailsStore: Sync,
        <S::ReplyStore as nym_sdk::mixnet::ReplyStorageBackend>::StorageError: Sync + Send,
    {
        let mut debug = DebugConfig::default();
        if self.unpaced {
            debug.traffic.disable_main_poisson_packet_distribution = true;
            debug.cover_traffic.disable_loop_cover_traffic_stream = true;
        }
        if let Some(delay) = self.hop_delay {
            debug.traffic.average_packet_delay = delay;
            debug.acknowledgements.average_ack_delay = delay;
        }
        let mut builder = builder.network_details(self.details()).debug_config(debug);
        if let Some(gateway) = &self.gateway {
            builder = builder.request_gateway(gateway.clone());
        }
        Ok(builder.build()?.connect_to_mixnet().await?)
    }
}
