//! A socket in front of Postgres's that can lose connections at the worst moments.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does to a connection; one fault per commit, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The commit does not reach Postgres.
    BeforeCommit,
    /// Postgres commits, and the answer is lost.
    AfterCommit,
}

pub(crate) struct InterruptingProxy {
    dir: TempDir,
    faults: Arc<Mutex<Vec<Fault>>>,
    is_cut: watch::Sender<bool>,
    /// Messages that clients may still send before every connection is lost, if any are.
    messages_left: Arc<Mutex<Option<u32>>>,
    task: JoinHandle<()>,
}

impl InterruptingProxy {
    pub(crate) fn start(socket_dir: &Path) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let name = ".s.PGSQL.5432";
        let listener = UnixListener::bind(dir.path().join(name)).unwrap();
        let faults = Arc::<Mutex<Vec<Fault>>>::default();
        let is_cut = watch::Sender::new(false);
        let messages_left = Arc::<Mutex<Option<u32>>>::default();
        let inflicted = Inflicted { faults: Arc::clone(&faults), messages_left: Arc::clone(&messages_left) };
        let task = tokio::spawn(accept(listener, socket_dir.join(name), inflicted, is_cut.subscribe()));
        Self { dir, faults, is_cut, messages_left, task }
    }

    pub(crate) fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The next commits meet these faults.
    pub(crate) fn inject(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// Ends every connection, and lets none through until it is mended.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }

    /// Loses the connection that sends this message (counted over all of them), before Postgres has it.
    pub(crate) fn cut_after(&self, messages: u32) {
        *self.messages_left.lock().unwrap() = Some(messages);
    }

    /// Whether [`cut_after`](Self::cut_after) has cut.
    pub(crate) fn cut_off(&self) -> bool {
        *self.messages_left.lock().unwrap() == Some(0)
    }

    pub(crate) fn faults_left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

impl Drop for InterruptingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Inflicted {
    faults: Arc<Mutex<Vec<Fault>>>,
    messages_left: Arc<Mutex<Option<u32>>>,
}

impl Inflicted {
    /// Counts a message; whether it is the one to cut at.
    fn cuts_here(&self) -> bool {
        let mut left = self.messages_left.lock().unwrap();
        let cuts = *left == Some(1);
        *left = left.map(|left| left.saturating_sub(1));
        cuts
    }
}

async fn accept(
    listener: UnixListener,
    postgres: PathBuf,
    inflicted: Inflicted,
    is_cut: watch::Receiver<bool>,
) {
    while let Ok((client, _)) = listener.accept().await {
        if *is_cut.borrow() {
            continue;
        }
        let server = UnixStream::connect(&postgres).await.unwrap();
        let (inflicted, mut is_cut) = (inflicted.clone(), is_cut.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = relay(client, server, inflicted) => {}
                _ = is_cut.wait_for(|is_cut| *is_cut) => {}
            }
        });
    }
}

/// Relays until either side ends or a fault strikes. Postgres sees a lost connection as its client
/// closing it.
async fn relay(mut client: UnixStream, mut server: UnixStream, inflicted: Inflicted) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(1..) = read else { return };
                let asked = &asked[..read.unwrap()];
                if inflicted.cuts_here() {
                    return;
                }
                let is_commit = asked.windows(6).any(|word| word == b"COMMIT");
                let fault = if is_commit { take_first(&inflicted.faults) } else { None };
                if fault == Some(Fault::BeforeCommit) || server.write_all(asked).await.is_err() {
                    return;
                }
                if fault == Some(Fault::AfterCommit) {
                    assert!(server.read(&mut answered).await.unwrap() > 0, "Postgres did not answer");
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(1..) = read else { return };
                if client.write_all(&answered[..read.unwrap()]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn take_first(faults: &Mutex<Vec<Fault>>) -> Option<Fault> {
    let mut faults = faults.lock().unwrap();
    if faults.is_empty() { None } else { Some(faults.remove(0)) }
}
