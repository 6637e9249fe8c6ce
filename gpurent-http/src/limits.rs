//! How much of a host a client may take. Every limit has an answer when it is reached.

use std::num::NonZeroU32;
use std::time::Duration;

/// The limits of a server. All of them have defaults that suit a host on the internet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpLimits {
    /// Requests at once; the next one is told to come back (503).
    pub requests: usize,
    /// The longest that a request may take, its body included (503). `/rent` waits up to 25 s for a container.
    pub request_time: Duration,
    /// Requests a second of one key, and of one address without one; twice as many in a burst (429). `None`: as many
    /// as there is time for.
    pub rate: Option<NonZeroU32>,
    /// Requests a minute of one renter that make or change something (429), by whichever of their keys. `None`: as many
    /// as [`rate`](Self::rate) lets through.
    pub changes: Option<NonZeroU32>,
    /// Connections at once. For one more, the one that was idle longest has to go.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_of_an_address: usize,
    /// How long a client may take to send a request's head, and a connection be idle between two.
    pub head_time: Duration,
    /// How long a client may take to read what it asked for, before its connection is closed.
    pub write_time: Duration,
    /// WebSockets and event streams at once, and of one renter; the next one is told to come back (503).
    pub listeners: usize,
    /// Of these, of one renter.
    pub listeners_of_a_renter: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            requests: 1024,
            request_time: Duration::from_secs(30),
            rate: NonZeroU32::new(100),
            changes: NonZeroU32::new(120),
            connections: 16_384,
            connections_of_an_address: 2048,
            head_time: Duration::from_secs(15),
            write_time: Duration::from_secs(30),
            listeners: 1024,
            listeners_of_a_renter: 32,
        }
    }
}

impl HttpLimits {
    /// Requests a second of one key; 0 for no limit.
    #[must_use]
    pub fn rate(self, a_second: u32) -> Self {
        Self { rate: NonZeroU32::new(a_second), ..self }
    }

    /// Requests a minute of one renter that make or change something; 0 for no limit.
    #[must_use]
    pub fn changes(self, a_minute: u32) -> Self {
        Self { changes: NonZeroU32::new(a_minute), ..self }
    }

    /// Requests at once.
    #[must_use]
    pub fn requests(self, requests: usize) -> Self {
        Self { requests, ..self }
    }

    /// Connections at once, and of these from one address.
    #[must_use]
    pub fn connections(self, connections: usize, of_an_address: usize) -> Self {
        Self { connections, connections_of_an_address: of_an_address, ..self }
    }

    /// WebSockets and event streams at once, and of these of one renter.
    #[must_use]
    pub fn listeners(self, listeners: usize, of_a_renter: usize) -> Self {
        Self { listeners, listeners_of_a_renter: of_a_renter, ..self }
    }

    /// How long a client may take to send a request's head.
    #[must_use]
    pub fn head_time(self, time: Duration) -> Self {
        Self { head_time: time, ..self }
    }

    /// How long a client may take to read what it asked for.
    #[must_use]
    pub fn write_time(self, time: Duration) -> Self {
        Self { write_time: time, ..self }
    }
}
