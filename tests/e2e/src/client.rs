//! A client of the driver, for tests: what the sidecars and the kubelet do, over the same socket.

use crate::wire::{Method, Part, Proto};
use std::path::Path;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A connection to a driver's socket. Calls block.
#[derive(Debug)]
pub struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Client {
    /// Connects to this socket.
    ///
    /// # Errors
    /// If nobody answers there.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self { runtime, channel })
    }

    /// Calls a method that answers once.
    ///
    /// # Errors
    /// What the driver answers, or `Unavailable` if it is gone.
    pub fn call<Q, R>(&self, method: &Method<Q, R>, request: Q) -> Result<R, Status>
    where
        Q: Part + 'static,
        R: Part + 'static,
    {
        let path = http::uri::PathAndQuery::from_static(method.path);
        self.runtime.block_on(async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let answer = grpc.unary(Request::new(request), path, Proto::<Q, R>::default()).await?;
            Ok(answer.into_inner())
        })
    }

    /// Calls a method that answers with a stream: its messages, and the error that it ended with, if any.
    pub fn stream<Q, R>(&self, method: &Method<Q, R>, request: Q) -> (Vec<R>, Option<Status>)
    where
        Q: Part + 'static,
        R: Part + 'static,
    {
        let path = http::uri::PathAndQuery::from_static(method.path);
        let mut messages = Vec::new();
        let ended = self.runtime.block_on(async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
            let answer = grpc.server_streaming(Request::new(request), path, Proto::<Q, R>::default()).await?;
            let mut stream = answer.into_inner();
            while let Some(message) = stream.message().await? {
                messages.push(message);
            }
            Ok(())
        });
        (messages, ended.err())
    }
}
