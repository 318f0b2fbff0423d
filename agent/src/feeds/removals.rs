//! Whoever has the kernel tell of removals: one task, which switches that on and off.

use std::{sync::Weak, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::Shared;
use crate::{
    stream::Hearing,
    walker::{WalkError, Walker},
};

/// Asks that wait: each feed has one at a time.
const ASKS_MAX: usize = 64;
/// How soon what could not be switched is tried again, if nobody asks before.
const RETRY: Duration = Duration::from_secs(1);

/// A handle to the task.
#[derive(Debug, Clone)]
pub(super) struct Removals(mpsc::Sender<Ask>);

/// Have the kernel tell of removals if any feed hears of them.
type Ask = oneshot::Sender<Result<Hearing, WalkError>>;

impl Removals {
    /// A handle, and what [`keep_watching`] has to be given.
    pub(super) fn new() -> (Self, Asks) {
        let (sender, asks) = mpsc::channel(ASKS_MAX);
        (Self(sender), Asks(asks))
    }

    /// How removals are heard of from now on, by those who hear of them.
    pub(super) async fn adjust(&self) -> Result<Hearing, WalkError> {
        let (sender, answer) = oneshot::channel();
        self.0.send(sender).await.map_err(|_| WalkError::Stopped)?;
        answer.await.map_err(|_| WalkError::Stopped)?
    }
}

/// What is asked of the task.
#[derive(Debug)]
pub(super) struct Asks(mpsc::Receiver<Ask>);

/// The task; it ends with the last handle.
pub(super) async fn keep_watching(walker: Walker, shared: Weak<Shared>, mut asks: Asks) {
    let mut watch = Watch { walker, hearing: Hearing::Unheard, episodes: 0 };
    loop {
        let Some(feeds) = shared.upgrade() else { return };
        let is_done = feeds.hears_removals() == (watch.hearing != Hearing::Unheard);
        drop(feeds);
        let ask = if is_done {
            asks.0.recv().await
        } else {
            let again = || Some(oneshot::channel().0);
            timeout(RETRY, asks.0.recv()).await.unwrap_or_else(|_| again())
        };
        let (Some(ask), Some(feeds)) = (ask, shared.upgrade()) else { return };
        // Who asked may have gone.
        drop(ask.send(watch.adjust(feeds.hears_removals()).await));
    }
}

/// The walker's watch, as it was switched last.
struct Watch {
    walker: Walker,
    hearing: Hearing,
    /// How often it was switched on.
    episodes: u64,
}

impl Watch {
    async fn adjust(&mut self, wanted: bool) -> Result<Hearing, WalkError> {
        let is_on = self.hearing != Hearing::Unheard;
        if wanted != is_on {
            let is_able = self.walker.watch_removals(wanted).await?;
            self.hearing = match (wanted, is_able) {
                (false, _) => Hearing::Unheard,
                (true, false) => Hearing::Unable,
                (true, true) => {
                    self.episodes += 1;
                    Hearing::Episode(self.episodes)
                }
            };
        }
        Ok(self.hearing)
    }
}
