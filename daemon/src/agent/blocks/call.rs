//! One question to the service of a driver, and as many calls as it takes until the answer is whole: streams are cut, by the
//! service itself after ten minutes, and tokens expire.

use super::ranges::Ranges;
use super::token::Tokens;
use super::wire::{ALLOCATED, DELTA, Proto, Request};
use crate::agent::surroundings::Surroundings;
use crate::backup::ChangedBlocks;
use std::error::Error as _;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use wherry_api::api::Refusal;
use wherry_api::client::chain;
use wherry_api::snapshot_metadata::Service;

/// A connection is made in this time, or tried anew.
const CONNECT: Duration = Duration::from_secs(10);
/// So long a driver may compute before it says anything more.
const SILENT: Duration = Duration::from_secs(120);
/// So many calls in a row may bring nothing.
const TRIES: u32 = 5;
/// The pause after the first of them, doubled each time.
const PAUSE: Duration = Duration::from_millis(200);
/// So many calls in all: at ten minutes each, five days.
const MOST_CALLS: u32 = 720;
/// Ranges in a message that are asked for. Drivers may send less.
const MOST_RANGES: i32 = 256;
/// The longest message that is read, in bytes: a range takes at most 22.
const LONGEST: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// This question is refused; another one may be answered.
    Refused(String),
    /// No question is answered.
    Gone(String),
    /// What was answered cannot be right: nothing that this service says is believed.
    Wrong(String),
}

/// The service, and the snapshot that it is asked about.
pub(super) struct Caller<'a> {
    channel: Channel,
    tokens: Tokens<'a>,
    namespace: &'a str,
    /// The VolumeSnapshot.
    snapshot: &'a str,
    /// Of the device, in bytes.
    size: u64,
}

impl<'a> Caller<'a> {
    /// Nothing is sent yet. To be made where a runtime is.
    pub(super) fn new(
        around: &'a Surroundings,
        service: &'a Service,
        snapshot: &'a str,
        size: u64,
    ) -> Result<Self, Unanswered> {
        let Service { address, audience, authorities } = service;
        let wrong = |e: tonic::transport::Error| Unanswered::Gone(format!("{address} is no address: {}", chain(&e)));
        // Whoever else has a certificate that this node trusts is not the service.
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(wrong)?
            .connect_timeout(CONNECT)
            // HTTP/2 has pings for this, but servers in Go hang up on whoever sends them often.
            .tcp_keepalive(Some(Duration::from_secs(20)));
        let (channel, tokens) = (endpoint.connect_lazy(), Tokens::new(around, audience));
        Ok(Self { channel, tokens, namespace: &around.namespace, snapshot, size })
    }

    /// Which ranges hold data, or, with a base, differ from the storage snapshot of that name.
    pub(super) async fn ask(&mut self, base: Option<&str>) -> Result<ChangedBlocks, Unanswered> {
        let mut ranges = Ranges::new(self.size);
        let (mut idle, mut pause, mut refusals) = (0, PAUSE, 0);
        for _ in 0..MOST_CALLS {
            let before = ranges.end();
            let status = match self.call(base, &mut ranges).await {
                Ok(()) => return ranges.whole().map_err(Unanswered::Wrong),
                Err(Ended::Wrong(why)) => return Err(Unanswered::Wrong(why)),
                // A service that must ask for the end by itself has nothing left to say.
                Err(_) if ranges.is_full() => return ranges.whole().map_err(Unanswered::Wrong),
                Err(Ended::Token(why)) => return Err(Unanswered::Gone(why)),
                Err(Ended::Status(status)) => status,
            };
            let (moved, code) = (ranges.end() > before, status.code());
            (idle, refusals) = if moved { (0, 0) } else { (idle + 1, refusals) };
            if code == Code::Unauthenticated {
                // It has expired, or so the service says. A new one is taken, or none is.
                self.tokens.refused();
                refusals += 1;
            }
            let fate = fate(code);
            if fate != Fate::Again || refusals > 1 || idle >= TRIES {
                let place =
                    if ranges.end() > 0 { format!(", after the ranges up to {}", ranges.end()) } else { String::new() };
                let text = format!("{}{place}", said(&status));
                // What fails in itself may fail for this question alone; who does not answer answers no other one.
                let away = matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Unauthenticated);
                let gone = fate == Fate::Gone || away;
                return Err(if gone { Unanswered::Gone(text) } else { Unanswered::Refused(text) });
            }
            tracing::info!("changed blocks: {}; asked again from {} on", said(&status), ranges.end());
            if moved {
                pause = PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Unanswered::Gone(format!("after {MOST_CALLS} calls the answer is not whole")))
    }

    /// One call, from where the ranges end.
    async fn call(&mut self, base: Option<&str>, ranges: &mut Ranges) -> Result<(), Ended> {
        let token = self.tokens.get().await.map_err(|e| match e.refusal {
            Refusal::Unavailable | Refusal::Busy => Ended::Status(Status::unavailable(e.to_string())),
            _ => Ended::Token(e.to_string()),
        })?;
        let path = http::uri::PathAndQuery::from_static(if base.is_some() { DELTA } else { ALLOCATED });
        let start = ranges.begin();
        let request = Request {
            token,
            namespace: self.namespace.to_owned(),
            base: base.map(ToOwned::to_owned),
            snapshot: self.snapshot.to_owned(),
            start: i64::try_from(start).unwrap_or(i64::MAX),
            most: MOST_RANGES,
        };
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(LONGEST);
        let asked = async {
            grpc.ready().await.map_err(|e| Status::unavailable(chain(&e)))?;
            grpc.server_streaming(tonic::Request::new(request), path, Proto).await
        };
        let mut stream = within(asked).await?.into_inner();
        while let Some(message) = within(stream.message()).await? {
            ranges.take(&message).map_err(Ended::Wrong)?;
        }
        Ok(())
    }
}

/// Why a call ended before the answer did.
enum Ended {
    Status(Status),
    /// There is no token to call with.
    Token(String),
    Wrong(String),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        match status.code() {
            // No message of the service, or none of that service.
            Code::DataLoss => Self::Wrong(said(&status)),
            _ => Self::Status(status),
        }
    }
}

/// A status comes in [`SILENT`], or is that nothing came.
async fn within<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = |_| Status::deadline_exceeded(format!("nothing came for {} s", SILENT.as_secs()));
    tokio::time::timeout(SILENT, answer).await.map_err(silent)?
}

/// What follows a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It may pass.
    Again,
    /// The question is answered so each time.
    Refused,
    /// Every question is.
    Gone,
}

fn fate(code: Code) -> Fate {
    match code {
        // Sessions that are cut end in several of these, and a token that has expired in one.
        Code::Unavailable
        | Code::Aborted
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unknown
        | Code::ResourceExhausted
        | Code::Unauthenticated => Fate::Again,
        Code::Unimplemented | Code::PermissionDenied | Code::DataLoss => Fate::Gone,
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::AlreadyExists
        | Code::Ok => Fate::Refused,
    }
}

/// A status in a line: code, message, and what it comes from.
fn said(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    if let Some(source) = status.source() {
        text = format!("{text}: {}", chain(source));
    }
    // Its own words are the driver's, which may be any.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_short_line_without_control_characters() {
        let status = Status::not_found(format!("no\n\u{1b}[31m snapshot {}", "x".repeat(1000)));
        let text = said(&status);
        assert!(text.starts_with("NotFound: no  [31m snapshot x") && text.len() == 300, "{text}");
    }

    #[test]
    fn a_driver_that_knows_no_base_is_asked_another_question() {
        for code in [Code::NotFound, Code::InvalidArgument, Code::FailedPrecondition, Code::OutOfRange] {
            assert_eq!(fate(code), Fate::Refused, "{code:?}");
        }
        for code in [Code::Unimplemented, Code::PermissionDenied] {
            assert_eq!(fate(code), Fate::Gone, "{code:?}");
        }
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Unauthenticated] {
            assert_eq!(fate(code), Fate::Again, "{code:?}");
        }
    }
}
