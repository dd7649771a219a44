//! The driver behind its sockets: gRPC over unix sockets, for the sidecars and for the kubelet.

use crate::csi;
use crate::driver::{Driver, log};
use crate::registration::{self, InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use crate::wire::{Method, Part, Proto};
use anyhow::Context;
use http::{Request, Response};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Server;

/// Serves until `stop` becomes true: the driver at `socket`, and where the kubelet looks for plugins, who it is.
///
/// # Errors
/// If a socket cannot be made or served.
pub async fn serve(
    driver: Arc<Driver>,
    socket: &Path,
    registration_dir: Option<&Path>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let calls = driver.clone();
    let service = tower::service_fn(move |request| {
        let driver = calls.clone();
        async move { Ok::<_, Infallible>(route(driver, request).await) }
    });
    let incoming = listen(socket)?;
    let registrar = Registrar { name: driver.name().to_owned(), endpoint: socket.display().to_string() };
    let registration_socket = registration_dir.map(|dir| registration_socket(dir, driver.name()));
    // The kubelet comes at once, so the driver's own socket is there first.
    let registration = match &registration_socket {
        None => None,
        Some(socket) => Some(listen(socket)?),
    };
    log(&format!("{} serves {}", driver.name(), socket.display()));
    tokio::select! {
        served = Server::builder().serve_with_incoming(service, incoming) => served.context("serving the driver")?,
        served = register(registrar, registration) => served?,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    for socket in registration_socket.as_deref().into_iter().chain([socket]) {
        fs::remove_file(socket).with_context(|| format!("removing {}", socket.display()))?;
    }
    Ok(())
}

/// Where the kubelet finds a driver of this name. It sends the path as `:authority`, percent-encoded; in Rust's HTTP/2
/// percent signs are allowed before an `@` only.
pub fn registration_socket(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("registration@{name}"))
}

/// A new socket at this path, whatever was there before.
fn listen(socket: &Path) -> anyhow::Result<UnixListenerStream> {
    let made = || {
        if let Some(folder) = socket.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        UnixListener::bind(socket)
    };
    made().map(UnixListenerStream::new).with_context(|| format!("making the socket {}", socket.display()))
}

/// Calls the method of the driver that the request is for.
async fn route(driver: Arc<Driver>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    macro_rules! methods {
        ($($answers:ident $name:ident $method:ident;)*) => {
            $(if path == csi::$name.path {
                return $answers(driver, &csi::$name, Driver::$method, request).await;
            })*
        };
    }
    methods! {
        once GET_PLUGIN_INFO get_plugin_info;
        once GET_PLUGIN_CAPABILITIES get_plugin_capabilities;
        once PROBE probe;
        once CREATE_VOLUME create_volume;
        once DELETE_VOLUME delete_volume;
        once VALIDATE_VOLUME_CAPABILITIES validate_volume_capabilities;
        once GET_CAPACITY get_capacity;
        once CONTROLLER_GET_CAPABILITIES controller_get_capabilities;
        once CREATE_SNAPSHOT create_snapshot;
        once DELETE_SNAPSHOT delete_snapshot;
        once LIST_SNAPSHOTS list_snapshots;
        once NODE_STAGE_VOLUME node_stage_volume;
        once NODE_UNSTAGE_VOLUME node_unstage_volume;
        once NODE_PUBLISH_VOLUME node_publish_volume;
        once NODE_UNPUBLISH_VOLUME node_unpublish_volume;
        once NODE_GET_CAPABILITIES node_get_capabilities;
        once NODE_GET_INFO node_get_info;
        streamed GET_METADATA_ALLOCATED get_metadata_allocated;
        streamed GET_METADATA_DELTA get_metadata_delta;
    }
    log(&format!("{path}: Unimplemented"));
    Status::unimplemented(format!("{path} is not implemented")).into_http()
}

/// A method that answers with one message.
async fn once<S, Q, R>(
    server: Arc<S>,
    method: &Method<Q, R>,
    call: fn(&S, Q) -> Result<R, Status>,
    request: Request<Body>,
) -> Response<Body>
where
    S: Send + Sync + 'static,
    Q: Part + 'static,
    R: Part + 'static,
{
    let path = method.path;
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let server = server.clone();
        async move { blocking(path, move || call(&server, request.into_inner())).await.map(tonic::Response::new) }
    });
    tonic::server::Grpc::new(Proto::<R, Q>::default()).unary(service, request).await
}

/// A method that answers with a stream.
async fn streamed<S, Q, R>(
    server: Arc<S>,
    method: &Method<Q, R>,
    call: fn(&S, Q) -> Result<VecDeque<Result<R, Status>>, Status>,
    request: Request<Body>,
) -> Response<Body>
where
    S: Send + Sync + 'static,
    Q: Part + 'static,
    R: Part + 'static,
{
    let path = method.path;
    let service = tower::service_fn(move |request: tonic::Request<Q>| {
        let server = server.clone();
        async move {
            let answer = blocking(path, move || call(&server, request.into_inner())).await?;
            Ok::<_, Status>(tonic::Response::new(tokio_stream::iter(answer)))
        }
    });
    tonic::server::Grpc::new(Proto::<R, Q>::default()).server_streaming(service, request).await
}

/// Runs a call where it may block, and logs it.
async fn blocking<T: Send + 'static>(
    path: &str,
    call: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let start = Instant::now();
    let result = tokio::task::spawn_blocking(call).await;
    let result = result.unwrap_or_else(|e| Err(Status::internal(format!("the call ended early: {e}"))));
    let verdict = match &result {
        Ok(_) => "Ok".to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    log(&format!("{path}: {verdict} ({} ms)", start.elapsed().as_millis()));
    result
}

/// What the kubelet is told.
#[derive(Debug)]
struct Registrar {
    name: String,
    endpoint: String,
}

impl Registrar {
    fn info(&self, _: InfoRequest) -> Result<PluginInfo, Status> {
        Ok(PluginInfo {
            kind: registration::CSI_PLUGIN.to_owned(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        })
    }

    fn notify(&self, status: RegistrationStatus) -> Result<RegistrationStatusResponse, Status> {
        let RegistrationStatus { plugin_registered, error } = status;
        log(&if plugin_registered {
            "the kubelet knows it".to_owned()
        } else {
            format!("the kubelet refuses it: {error}")
        });
        Ok(RegistrationStatusResponse {})
    }
}

/// Answers the kubelet; without a socket, does so to nobody.
async fn register(registrar: Registrar, incoming: Option<UnixListenerStream>) -> anyhow::Result<()> {
    let Some(incoming) = incoming else { return std::future::pending().await };
    let registrar = Arc::new(registrar);
    let service = tower::service_fn(move |request: Request<Body>| {
        let registrar = registrar.clone();
        async move {
            let response = match request.uri().path() {
                path if path == registration::GET_INFO.path => {
                    once(registrar, &registration::GET_INFO, Registrar::info, request).await
                }
                path if path == registration::NOTIFY.path => {
                    once(registrar, &registration::NOTIFY, Registrar::notify, request).await
                }
                path => Status::unimplemented(format!("{path} is not implemented")).into_http(),
            };
            Ok::<_, Infallible>(response)
        }
    });
    Server::builder().serve_with_incoming(service, incoming).await.context("serving the kubelet")
}
