//! QueryHistory: what was stored, as ticks or as series.

mod request;
mod series;
mod ticks;
mod wire;

use std::time::Duration;

use cgfleet_proto::v1::{
    ErrorReason, QueryHistoryRequest, QueryHistoryResponse, query_history_response::Event,
};
use cgfleet_rpc::wire_error::WireError;
use futures::{SinkExt as _, StreamExt as _, channel::mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Instrument as _;

use self::{request::Question, wire::Progress};
use super::{Answers, Fleet};

/// How long a question waits for one of those under way to end.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// Messages that wait for a reader: what is behind them waits too.
const WAITING_MESSAGES_MAX: usize = 4;

/// How much of the past one question may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryLimits {
    /// Series at one time, or cgroups whose ticks are read.
    pub(crate) series_max: usize,
    /// Values of steps at one time.
    pub(crate) values_max: usize,
}

pub(super) async fn query_history(
    fleet: &Fleet,
    request: QueryHistoryRequest,
) -> Result<Answers<QueryHistoryResponse>, WireError> {
    let begun = Instant::now();
    let question = Question::parse(fleet, &request)?;
    let turn = timeout(TURN_WITHIN, fleet.history_turns.clone().acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(too_many_questions(fleet.history_queries_max)) };
    // What cannot be answered at all is said at once, and not as the end of a stream.
    let chosen = Chosen::find(fleet, &question).await?;
    let (sender, messages) = mpsc::channel(WAITING_MESSAGES_MAX);
    let store = fleet.store.clone();
    let limits = fleet.history_limits;
    let gone = CancellationToken::new();
    let reader = gone.clone().drop_guard();
    let answer = async move {
        let mut out = Out { sender, progress: Progress::new(begun, &question) };
        let answering = async {
            match &question.series {
                Some(asked) => series::answer(&store, limits, &question, asked, chosen, &mut out).await,
                None => ticks::answer(&store, &question, chosen, &mut out).await,
            }
        };
        // A question that nobody waits for gives up its turn, also where it has nothing to send yet.
        let answered = tokio::select! {
            answered = answering => answered,
            () = gone.cancelled() => return,
        };
        let last = match answered {
            Ok(()) => Ok(Event::Summary(out.progress.summary())),
            Err(Ended::Error(error)) => Err(error),
            Err(Ended::ReaderGone) => return,
        };
        // A reader that is gone misses nothing.
        let _ = out.sender.send(last).await;
        drop(turn);
    };
    tokio::spawn(answer.in_current_span());
    Ok(Box::pin(messages.map(move |event| {
        let _held = &reader;
        match event {
            Ok(event) => Ok(QueryHistoryResponse { event: Some(event) }),
            Err(error) => Err(Status::from(error)),
        }
    })))
}

use self::series::Chosen;

/// Where an answer goes, at its reader's pace.
struct Out {
    sender: mpsc::Sender<Result<Event, WireError>>,
    progress: Progress,
}

impl Out {
    async fn send(&mut self, event: Event) -> Result<(), Ended> {
        self.sender.send(Ok(event)).await.map_err(|_| Ended::ReaderGone)
    }
}

/// Why an answer ends before its end.
enum Ended {
    ReaderGone,
    Error(WireError),
}

impl<E: Into<WireError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

fn too_many_questions(queries_max: u32) -> WireError {
    let message = format!(
        "{queries_max} questions on the past are under way already (history_queries_max); ask again later"
    );
    WireError::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
        .with("limit", "history_queries_max")
        .with("value", queries_max)
}

/// A limit that a question would go past, and how to stay below it.
fn past_limit(limit: &str, value: usize, what: &str, advice: &str) -> WireError {
    let message = format!("the answer needs more than {value} {what} at a time ({limit}); {advice}");
    WireError::new(Code::ResourceExhausted, ErrorReason::LimitExceeded, message)
        .with("limit", limit)
        .with("value", value)
}
