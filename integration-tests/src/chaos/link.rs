//! A TCP connection that can be cut: what stands between a server and an agent.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What a link does with what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Passes it on.
    Open,
    /// Ends every connection, and every new one.
    Cut,
    /// Holds it, and says nothing.
    Silent,
}

/// A link to one address; it ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<LinkState>,
    task: JoinHandle<()>,
}

impl Link {
    /// A link to `target`, which need not be there yet.
    pub async fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, state) = (listener.local_addr()?, watch::Sender::new(LinkState::Open));
        let task = tokio::spawn(accept(listener, target, state.subscribe()));
        Ok(Self { address, state, task })
    }

    /// Where to connect instead.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from now on.
    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.set(LinkState::Cut);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<LinkState>) {
    while let Ok((client, _)) = listener.accept().await {
        if *state.borrow() == LinkState::Cut {
            continue;
        }
        let mut state = state.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let ((asked, to_client), (answered, to_server)) = (client.into_split(), server.into_split());
            tokio::select! {
                () = pass_on(asked, to_server, state.clone()) => {}
                () = pass_on(answered, to_client, state.clone()) => {}
                _ = state.wait_for(|state| *state == LinkState::Cut) => {}
            }
        });
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<LinkState>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if state.wait_for(|state| *state != LinkState::Silent).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
