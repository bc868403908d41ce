//! Listeners in an event loop, which hears of edges only: nothing may be left untried.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use qio::net::{self, Accepted, Admit, Handshake, Handshakes, ListenOptions, Listener, Verdict};
use qio::watch::{PollSet, Steps};
use qio::{Channel, ChannelExt, Error, Interest};
use qio_adapters::tokio::run;
use tokio::runtime::Builder;

const PATIENCE: Duration = Duration::from_secs(15);

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(PATIENCE, future).await.expect("it hangs") };
    runtime.block_on(bounded)
}

fn listen(options: &ListenOptions) -> Listener {
    net::listen(&"listen:tcp://:0".parse().unwrap(), options).unwrap()
}

fn dial(listener: &Listener) -> TcpStream {
    let port = listener.local_addresses()[0].port().unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap()
}

/// Accepts in a task, which waits already when this returns.
async fn accepting(listener: &Arc<Listener>) -> tokio::task::JoinHandle<Accepted> {
    let listener = Arc::clone(listener);
    let task = tokio::spawn(async move { run(listener.accepting()).await.unwrap().unwrap() });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished());
    task
}

#[test]
fn clients_that_came_while_it_was_paused_are_accepted() {
    block_on(async {
        let listener = Arc::new(listen(&ListenOptions::new()));
        for _ in 0..20 {
            // Paused before or after the wait has begun.
            let early = accepting(&listener).await;
            listener.pause();
            let late = accepting(&listener).await;
            let clients = [dial(&listener), dial(&listener)];
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert!(!early.is_finished() && !late.is_finished());
            listener.resume();
            early.await.unwrap();
            late.await.unwrap();
            drop(clients);
        }
    });
}

#[test]
fn clients_that_came_while_it_was_full_are_accepted_one_by_one() {
    block_on(async {
        let listener = Arc::new(listen(&ListenOptions::new().max_connections(1)));
        let _clients: Vec<_> = (0..50).map(|_| dial(&listener)).collect();
        let mut last = run(listener.accepting()).await.unwrap().unwrap();
        for _ in 1..50 {
            let next = accepting(&listener).await;
            drop(last);
            last = next.await.unwrap();
        }
    });
}

#[test]
fn a_client_behind_a_flood_of_refused_ones_is_accepted() {
    block_on(async {
        let welcome = Arc::new(Mutex::new(None));
        let admitted = Arc::clone(&welcome);
        let admit = Admit::by(move |peer| match *admitted.lock().unwrap() == peer.remote() {
            true => Verdict::Admit,
            false => Verdict::refuse("one of the flood"),
        });
        let listener = Arc::new(listen(&ListenOptions::new().admit(admit)));
        let task = accepting(&listener).await;
        let _flood: Vec<_> = (0..200).map(|_| dial(&listener)).collect();
        let client = dial(&listener);
        *welcome.lock().unwrap() = Some(client.local_addr().unwrap());
        task.await.unwrap();
        assert_eq!(listener.refused(), 200);
    });
}

#[test]
fn sockets_that_are_added_and_a_listener_that_is_closed_are_noticed() {
    block_on(async {
        let listener = Arc::new(Listener::new(&ListenOptions::new()));
        for _ in 0..3 {
            let task = accepting(&listener).await;
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            listener.add_fd(socket.into()).unwrap();
            let _client = TcpStream::connect(address).unwrap();
            task.await.unwrap();
        }
        let waiting = Arc::clone(&listener);
        let task = tokio::spawn(async move { run(waiting.accepting()).await.unwrap() });
        tokio::task::yield_now().await;
        listener.close().unwrap();
        assert_eq!(task.await.unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

/// Waits for one byte.
struct Greeting(Arc<dyn Channel>);

impl Steps for Greeting {
    type Output = qio::Result<Arc<dyn Channel>>;

    fn step(&mut self, _now: Instant) -> Poll<Self::Output> {
        match self.0.read(&mut [0]) {
            Ok(1) => Poll::Ready(Ok(Arc::clone(&self.0))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            _ => Poll::Ready(Err(Error::new(qio::error::Class::Io, "greet", self.0.name()))),
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        if !self.0.watch(Interest::READ, set).is_empty() {
            set.wake_at(Instant::now());
        }
    }
}

#[test]
fn handshakes_side_by_side_all_come_to_their_end() {
    block_on(async {
        let listener = listen(&ListenOptions::new().max_connections(20));
        let greet = |client: &Accepted| -> qio::Result<Handshake> {
            Ok(Box::new(Greeting(Arc::clone(&client.channel))))
        };
        let mut handshakes = Handshakes::new(&listener, greet).limit(50);
        let mut clients: Vec<_> = (0..50).map(|_| dial(&listener)).collect();
        let mut accepted = Vec::new();
        for round in 0..50 {
            // The youngest first; some have to wait for a place.
            clients[49 - round].write_all(b"!").unwrap();
            if accepted.len() == 20 {
                accepted.clear();
            }
            let client: Accepted = run(&mut handshakes).await.unwrap().unwrap();
            client.channel.write_all(b"?").unwrap();
            accepted.push(client);
        }
        assert_eq!(handshakes.pending(), 0);
        for client in &mut clients {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    });
}
