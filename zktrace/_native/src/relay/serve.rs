//! The thread: listeners, upstreams, the end.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{watch, Notify};
use tokio::task::{spawn_local, LocalSet};
use tokio::time::sleep;

use super::decisions::Decisions;
use super::desk::Desk;
use super::dial::{connect, greet, reach, DOWN_PAUSE};
use super::facts::{Facts, Ops};
use super::notices::Notices;
use super::pair::{End, Pair};
use super::program::Tri;
use super::rules::{Action, Definition, Rule, Rules};
use super::tap::{now_ns, Queue, Tap, TapFlow};
use super::tls::Tls;
use super::upstreams::{Turn, Upstream};
use super::wire::reset;
use super::{add, Config, Counters, Listener, WhenDown};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Packets are handed to those who read the tap after so long at the latest.
const FLUSH: Duration = Duration::from_millis(5);
/// How long to wait when accepting fails, as when there are no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often whoever drains looks whether all have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// What the connections of the thread share.
pub struct Shared {
    pub counters: Arc<Counters>,
    pub tap: RefCell<Tap>,
    pub spill_limit: usize,
    pub slow_reader: Option<Duration>,
    pub connect_timeout: Duration,
    max_connections: usize,
    pub when_down: WhenDown,
    pub max_frame: usize,
    pub ops: Ops,
    pub decisions: Arc<Decisions>,
    pub desk: Arc<Desk>,
    pub notices: Arc<Notices>,
    numbers: Cell<u64>,
    open: Cell<usize>,
    /// Told when a block of the tap begins.
    begun: Notify,
}

impl Shared {
    /// The number of a new connection.
    pub fn numbered(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// The tap, for a packet.
    pub fn tapping(&self) -> RefMut<'_, Tap> {
        let tap = self.tap.borrow_mut();
        if tap.begins() {
            self.begun.notify_one();
        }
        tap
    }
}

/// What all connections are told.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    stopping: bool,
    pub rules: Rules,
    /// Of each listener.
    upstreams: Arc<Vec<Vec<Upstream>>>,
    /// Of new connections.
    pub tls: Tls,
    /// Nobody is accepted any more, and connections end within so long when they have nothing under way.
    drain: Option<Duration>,
}

/// A running proxy. Stops when it is dropped.
pub struct Relay {
    /// Where it listens, in the order of the configuration.
    pub addresses: Vec<SocketAddr>,
    pub counters: Arc<Counters>,
    pub decisions: Arc<Decisions>,
    pub desk: Arc<Desk>,
    pub notices: Arc<Notices>,
    orders: watch::Sender<Orders>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Relay {
    /// The rules in force, as they are now.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Arc::clone(&self.orders.borrow().rules)
    }

    /// Puts a rule in force, for open connections, too.
    pub fn add_rule(&self, definition: Definition) {
        self.orders.send_modify(|orders| {
            let mut rules = orders.rules.to_vec();
            rules.push(Rule::new(definition));
            orders.rules = Arc::new(rules);
        });
    }

    /// Takes a rule back; whether there was one.
    pub fn remove_rule(&self, id: u64) -> bool {
        let mut found = false;
        self.orders.send_if_modified(|orders| {
            let rules: Vec<_> = orders
                .rules
                .iter()
                .filter(|rule| rule.definition.id != id)
                .cloned()
                .collect();
            found = rules.len() < orders.rules.len();
            orders.rules = Arc::new(rules);
            found
        });
        found
    }

    /// The servers behind a listener from now on; open connections stay where they are.
    pub fn set_upstreams(&self, listener: usize, servers: Vec<Upstream>) {
        self.orders.send_modify(|orders| {
            let mut all = orders.upstreams.to_vec();
            if let Some(own) = all.get_mut(listener) {
                *own = servers;
            }
            orders.upstreams = Arc::new(all);
        });
    }

    /// Certificates and keys of connections from now on; open ones go on with theirs.
    pub fn set_tls(&self, tls: Tls) {
        self.orders.send_modify(|orders| orders.tls = tls);
    }

    /// Accepts nobody any more, and ends connections between two frames, spread over this time; waits for it. How many were
    /// still open then.
    pub fn drain(&self, over: Duration) -> u64 {
        self.orders.send_modify(|orders| orders.drain = Some(over));
        let until = Instant::now() + over;
        while self.counters.open.load(Relaxed) > 0 && Instant::now() < until {
            std::thread::sleep(DRAIN_LOOK);
        }
        self.counters.open.load(Relaxed)
    }

    /// Ends all connections with a reset, and the thread.
    pub fn stop(&self) {
        self.orders.send_modify(|orders| orders.stopping = true);
        self.desk.close();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It has panicked: that was reported when it happened, and there is nothing left to end.
            let _ = thread.join();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Binds, then relays in a thread of its own. Each queue gets all that the tap has.
pub fn start(config: Config, queues: Vec<Arc<Queue>>) -> io::Result<Relay> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let counters = Arc::new(Counters::default());
    let mut bound = Vec::new();
    let mut behind = Vec::new();
    let mut addresses = Vec::new();
    {
        let _inside = runtime.enter();
        for Listener { address, upstreams } in &config.listeners {
            let listener = listen(*address)
                .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
            addresses.push(listener.local_addr()?);
            bound.push(listener);
            behind.push(upstreams.clone());
        }
    }
    let given = config.rules.iter().cloned().map(Rule::new).collect();
    let (orders, ordered) = watch::channel(Orders {
        stopping: false,
        rules: Arc::new(given),
        upstreams: Arc::new(behind),
        tls: config.tls.clone(),
        drain: None,
    });
    let counting = Arc::clone(&counters);
    let decisions = Decisions::new();
    let desk = Desk::new();
    let notices = Arc::new(Notices::default());
    let telling = Telling {
        decisions: Arc::clone(&decisions),
        desk: Arc::clone(&desk),
        notices: Arc::clone(&notices),
    };
    let thread = std::thread::Builder::new()
        .name("zktrace-relay".into())
        .spawn(move || {
            LocalSet::new().block_on(
                &runtime,
                run(config, bound, queues, counting, telling, ordered),
            );
        })?;
    Ok(Relay {
        addresses,
        counters,
        decisions,
        desk,
        notices,
        orders,
        thread: Mutex::new(Some(thread)),
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What others ask.
struct Telling {
    decisions: Arc<Decisions>,
    desk: Arc<Desk>,
    notices: Arc<Notices>,
}

async fn run(
    config: Config,
    bound: Vec<TcpListener>,
    queues: Vec<Arc<Queue>>,
    counters: Arc<Counters>,
    telling: Telling,
    mut orders: watch::Receiver<Orders>,
) {
    let shared = Rc::new(Shared {
        tap: RefCell::new(Tap::new(queues, Arc::clone(&counters))),
        counters,
        spill_limit: config.spill_limit,
        slow_reader: config.slow_reader,
        connect_timeout: config.connect_timeout,
        max_connections: config.max_connections,
        when_down: config.when_down,
        max_frame: config.max_frame,
        ops: config.ops,
        decisions: telling.decisions,
        desk: telling.desk,
        notices: telling.notices,
        numbers: Cell::new(0),
        open: Cell::new(0),
        begun: Notify::new(),
    });
    spawn_local(flushing(Rc::clone(&shared)));
    for (index, listener) in bound.into_iter().enumerate() {
        spawn_local(accepting(
            Rc::clone(&shared),
            listener,
            index,
            orders.clone(),
        ));
    }
    // It fails when the handle is gone, which is as good a reason to end.
    let _ = orders.wait_for(|orders| orders.stopping).await;
    while shared.open.get() > 0 {
        // Each connection has heard it, too.
        tokio::task::yield_now().await;
    }
    shared.tap.borrow_mut().close();
}

async fn flushing(shared: Rc<Shared>) {
    loop {
        shared.begun.notified().await;
        sleep(FLUSH).await;
        shared.tap.borrow_mut().flush();
    }
}

async fn accepting(
    shared: Rc<Shared>,
    listener: TcpListener,
    index: usize,
    orders: watch::Receiver<Orders>,
) {
    let mut stopping = orders.clone();
    let mut turn = Turn::default();
    let mut listener = Some(listener);
    let address = listener.as_ref().and_then(|one| one.local_addr().ok());
    let down = Rc::new(Notify::new());
    loop {
        let Some(open) = &listener else {
            // Closed, until a server accepts.
            tokio::select! {
                () = sleep(DOWN_PAUSE) => {}
                _ = stopping.wait_for(|orders| orders.stopping || orders.drain.is_some()) => return,
            }
            let order = turn.order(&orders.borrow().upstreams[index]);
            let tls = orders.borrow().tls.clone();
            if connect(&shared, &tls, &order).await.is_some() {
                listener = address.and_then(|address| listen(address).ok());
            }
            continue;
        };
        let accepted = tokio::select! {
            accepted = open.accept() => accepted,
            () = down.notified() => {
                listener = None;
                continue;
            }
            _ = stopping.wait_for(|orders| orders.stopping || orders.drain.is_some()) => return,
        };
        match accepted {
            Ok((client, address)) => {
                add(&shared.counters.accepted, 1);
                if shared.open.get() >= shared.max_connections {
                    add(&shared.counters.refused, 1);
                    reset(&client);
                    continue;
                }
                let order = turn.order(&orders.borrow().upstreams[index]);
                spawn_local(connection(
                    Rc::clone(&shared),
                    client,
                    address,
                    order,
                    orders.clone(),
                    Rc::clone(&down),
                ));
            }
            Err(_) => {
                add(&shared.counters.accept_failures, 1);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts a connection as open for as long as it lives.
struct Open(Rc<Shared>);

impl Open {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.open.set(shared.open.get() + 1);
        shared
            .counters
            .open
            .store(shared.open.get() as u64, Relaxed);
        Self(Rc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0
            .counters
            .open
            .store(self.0.open.get() as u64, Relaxed);
    }
}

async fn connection(
    shared: Rc<Shared>,
    client: TcpStream,
    address: SocketAddr,
    order: Vec<Upstream>,
    mut orders: watch::Receiver<Orders>,
    gone: Rc<Notify>,
) {
    let _open = Open::new(&shared);
    if down(&orders.borrow().rules, address, &order) {
        add(&shared.counters.faulted, 1);
        reset(&client);
        return;
    }
    // Both fail only when the connection is gone, which reading tells.
    let _ = client.set_nodelay(true);
    let tls = orders.borrow().tls.clone();
    let greeted = tokio::select! {
        greeted = greet(&shared, &tls, client, address) => greeted,
        _ = orders.wait_for(|orders| orders.stopping) => None,
    };
    let Some(mut client) = greeted else {
        return;
    };
    let server = tokio::select! {
        server = reach(&shared, &tls, &order, &client) => server,
        _ = orders.wait_for(|orders| orders.stopping) => None,
    };
    let Some((server, upstream)) = server else {
        if !orders.borrow().stopping {
            add(&shared.counters.unreachable, 1);
            if shared.when_down == WhenDown::CloseListener {
                gone.notify_one();
            }
        }
        client.reset();
        return;
    };
    let _ = server.socket().set_nodelay(true);
    let mut flow = TapFlow::new(address, upstream.address);
    flow.open(&mut shared.tapping(), now_ns());
    let others = order.into_iter().filter(|one| *one != upstream).collect();
    orders.mark_unchanged();
    let mut pair = Pair::new(
        Rc::clone(&shared),
        client,
        server,
        flow,
        orders.clone(),
        others,
    );
    // Spread, so that not all clients connect elsewhere at once.
    let when = |over: Duration, spread| tokio::time::Instant::now() + over.mul_f64(spread);
    let mut drain_at = orders.borrow().drain.map(|over| when(over, pair.spread()));
    let end = loop {
        tokio::select! {
            end = &mut pair => break Some(end),
            changed = orders.changed() => {
                let now = orders.borrow_and_update().clone();
                if now.stopping || changed.is_err() {
                    break None;
                }
                if let (Some(over), None) = (now.drain, drain_at) {
                    drain_at = Some(when(over, pair.spread()));
                }
                pair.given(now.rules);
            }
            () = until(drain_at), if drain_at.is_some() && !pair.draining => pair.draining = true,
        }
    };
    let counter = match end {
        Some(End::Closed) => return,
        Some(End::Drained) => {
            add(&shared.counters.drained, 1);
            return;
        }
        Some(End::Cut) => {
            add(&shared.counters.faulted, 1);
            return;
        }
        Some(End::Reset(_)) => Some(&shared.counters.resets),
        Some(End::Slow(_)) => Some(&shared.counters.slow_readers),
        Some(End::Fault) => Some(&shared.counters.faulted),
        None => None,
    };
    if let Some(counter) = counter {
        add(counter, 1);
    }
    pair.reset();
}

/// Whether a rule has the listener down for this client.
fn down(rules: &Rules, client: SocketAddr, order: &[Upstream]) -> bool {
    let Some(server) = order.first() else {
        return false;
    };
    let facts = Facts::of(client, server.address, None);
    rules.iter().any(|rule| {
        matches!(rule.definition.action, Action::Down)
            && rule.concerns(&facts) == Tri::Yes
            && rule.fires()
    })
}

async fn until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
