//! Frames that someone outside decides about: questions on one side, verdicts on the other.
//!
//! The plane puts a frame here and goes on with all that does not have to wait for it; whoever decides takes it, in a thread of
//! its own, and leaves a verdict for the connection, which is woken. What the plane needs from there in time it
//! asks for itself: this knows no limits of time.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// A frame, and what is known of it.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which connection and, of it, which question.
    pub connection: u64,
    pub ticket: u64,
    pub rule: u64,
    /// `request`, `reply` or `event`.
    pub kind: &'static str,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub session: Option<u64>,
    /// Of the request, as far as there is one.
    pub opcode: Option<i32>,
    pub path: Option<String>,
    pub xid: i32,
    /// With its length.
    pub frame: Vec<u8>,
}

/// What is to become of it.
#[derive(Clone, Debug)]
pub enum Verdict {
    Pass,
    /// This frame goes on instead.
    Replace(Vec<u8>),
    /// A request's reply, which the server is not asked for.
    Answer(Vec<u8>),
    Drop,
    Close,
}

/// For one connection.
#[derive(Debug)]
pub enum Message {
    Verdict(u64, Verdict),
    /// A frame for the client, between two others.
    Inject(Vec<u8>),
}

#[derive(Debug, Default)]
struct State {
    questions: VecDeque<Question>,
    /// Connections under rules that ask, with what they have not taken yet.
    boxes: HashMap<u64, (Vec<Message>, Option<Waker>)>,
    closed: bool,
}

/// Shared between the plane and whoever decides.
#[derive(Debug, Default)]
pub struct Desk {
    state: Mutex<State>,
    asked: Condvar,
}

impl Desk {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is made at once: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ask(&self, question: Question) {
        self.state().questions.push_back(question);
        self.asked.notify_one();
    }

    /// The next question; None: none came in time, or none will (see `closed`).
    pub fn next(&self, wait: Duration) -> Option<Question> {
        let state = self.state();
        let (mut state, _) = self
            .asked
            .wait_timeout_while(state, wait, |state| {
                state.questions.is_empty() && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.questions.pop_front()
    }

    /// A message for a connection; whether there is such a one.
    pub fn tell(&self, connection: u64, message: Message) -> bool {
        let mut state = self.state();
        let Some((messages, waker)) = state.boxes.get_mut(&connection) else {
            return false;
        };
        messages.push(message);
        let waker = waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// What a connection has been told; it is woken by the next message.
    pub fn take(&self, connection: u64, waker: &Waker) -> Vec<Message> {
        let mut state = self.state();
        let entry = state.boxes.entry(connection).or_default();
        entry.1 = Some(waker.clone());
        std::mem::take(&mut entry.0)
    }

    /// A connection has ended, or no rule asks about it any more; its questions need no answer.
    pub fn forget(&self, connection: u64) {
        let mut state = self.state();
        state.boxes.remove(&connection);
        state
            .questions
            .retain(|question| question.connection != connection);
    }

    pub fn close(&self) {
        self.state().closed = true;
        self.asked.notify_all();
    }

    #[must_use]
    pub fn closed(&self) -> bool {
        self.state().closed
    }
}
