//! A bare tonic stream, to measure what gRPC itself takes: a message at every tick, and nothing else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use cgfleet_proto::v1::{SubscribeRequest, SubscribeResponse, agent_service_client::AgentServiceClient};
use cgfleet_rpc::channel::{self, Channel};
use tokio::{net::TcpListener, runtime::Runtime, time::interval};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{IntervalStream, TcpListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::Server,
};
use tonic_prost::ProstCodec;

/// When each message was handed to tonic; the last one.
type Stamp = Arc<Mutex<Option<Instant>>>;

/// A server of the same method that sends the same message again and again.
pub(super) struct Bare {
    address: SocketAddr,
    stamp: Stamp,
    /// Its own threads, as another process has.
    _runtime: Runtime,
}

impl Bare {
    pub(super) fn start(message: SubscribeResponse, every: Duration) -> Result<Self> {
        let runtime = Runtime::new()?;
        let stamp = Stamp::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let service = Subscribe { message, every, stamp: Arc::clone(&stamp) };
        let server = Server::builder().tcp_nodelay(true).add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { address, stamp, _runtime: runtime })
    }

    pub(super) async fn subscribe(&self) -> Result<BareStream> {
        let channel = channel::connect_lazy(&format!("http://{}", self.address))?;
        let mut client: AgentServiceClient<Channel> = AgentServiceClient::new(channel);
        let stream = client.subscribe(SubscribeRequest::default()).await?.into_inner();
        Ok(BareStream { stream, stamp: Arc::clone(&self.stamp) })
    }
}

pub(super) struct BareStream {
    stream: Streaming<SubscribeResponse>,
    stamp: Stamp,
}

impl BareStream {
    /// Takes what waits, until one comes that was waited for.
    pub(super) async fn skip_late(&mut self, every: Duration) -> Result<()> {
        loop {
            let asked = Instant::now();
            self.next().await?;
            if asked.elapsed() > every / 4 {
                return Ok(());
            }
        }
    }

    /// The next message's time from hand to hand.
    pub(super) async fn next(&mut self) -> Result<Duration> {
        self.stream.message().await?.context("the bare stream ended")?;
        let stamp = *self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(stamp.context("a message that nobody sent")?.elapsed())
    }
}

#[derive(Clone)]
struct Subscribe {
    message: SubscribeResponse,
    every: Duration,
    stamp: Stamp,
}

impl ServerStreamingService<SubscribeRequest> for Subscribe {
    type Response = SubscribeResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _request: Request<SubscribeRequest>) -> Self::Future {
        let Self { message, every, stamp } = self.clone();
        let messages = IntervalStream::new(interval(every)).map(move |_| {
            *stamp.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            Ok(message.clone())
        });
        std::future::ready(Ok(Response::new(Box::pin(messages))))
    }
}

impl tower::Service<http::Request<Body>> for Subscribe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).server_streaming(service, request).await) })
    }
}

impl NamedService for Subscribe {
    const NAME: &'static str = "cgfleet.v1.AgentService";
}
