//! What every gRPC server here offers beside its own services: health, reflection, a span a
//! request, and a graceful end.

use std::{io, net::TcpListener, time::Duration};

use cgfleet_proto::FILE_DESCRIPTOR_SET;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower_http::trace::TraceLayer;

use crate::trace;

/// What every server here offers beside its own services.
const SERVICES_BESIDE: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// A client's connection is pinged this often, so that streams of a vanished client end.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A ping that is not answered in this time ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way may go on after the process was asked to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `services` on `listener`, as [`bind`](crate::listen::bind) gives it, until `shutdown`, then lets requests under way end, bounded.
///
/// `names` are the full names of the services, for `grpc.health.v1`.
pub async fn serve(
    listener: TcpListener,
    services: Routes,
    names: &[&str],
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Listener)?;
    let (reporter, health) = tonic_health::server::health_reporter();
    for name in names {
        reporter.set_service_status(*name, tonic_health::ServingStatus::Serving).await;
    }

    // Outermost first: a span a request, so that everything below logs inside it.
    let spans = TraceLayer::new_for_grpc()
        .make_span_with(|request: &http::Request<_>| {
            trace::request_span(request.uri().path(), request.headers())
        })
        .on_request(())
        .on_response(())
        .on_body_chunk(())
        .on_eos(())
        .on_failure(());
    // Server::tcp_nodelay does not reach a listener of our own; without it, small answers wait 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(spans)
        .add_routes(services)
        .add_service(health)
        .add_service(reflection(names).build_v1()?)
        .add_service(reflection(names).build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return Ok(result?),
        () = shutdown.cancelled() => {}
    }
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    for name in names {
        reporter.set_service_status(*name, tonic_health::ServingStatus::NotServing).await;
    }
    let Ok(drained) = tokio::time::timeout(DRAIN_TIMEOUT, serving).await else {
        tracing::warn!(?DRAIN_TIMEOUT, "requests were still under way when the drain time was over");
        return Ok(());
    };
    Ok(drained?)
}

/// Reflection, of which old clients know v1alpha alone. It lists what is served here, not all that the
/// descriptors name, and describes the details of errors too.
fn reflection(names: &[&str]) -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .include_reflection_service(false)
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    names.iter().chain(&SERVICES_BESIDE).fold(builder, |builder, name| builder.with_service_name(*name))
}

/// A gRPC server that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be waited on.
    #[error("serve gRPC: {0}")]
    Listener(io::Error),
    /// The listener or a connection failed.
    #[error("serve gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors cannot be served.
    #[error("serve gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}
