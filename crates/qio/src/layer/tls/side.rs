//! The two sides of a connection of rustls.

use std::ops::DerefMut;

use rustls::SideData;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{UnbufferedConnectionCommon, UnbufferedStatus};

/// Which side of a connection; there are two.
pub trait Side: Sized + sealed::Sealed + 'static {
    #[doc(hidden)]
    type Connection: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Send;
    #[doc(hidden)]
    type Data: SideData;

    #[doc(hidden)]
    fn process<'c, 'i>(
        connection: &'c mut Self::Connection,
        wire: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

/// The side that begins.
#[derive(Debug)]
#[non_exhaustive]
pub struct Client;

/// The side that answers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Server;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Client {}
    impl Sealed for super::Server {}
}

impl Side for Client {
    type Connection = UnbufferedClientConnection;
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(
        connection: &'c mut Self::Connection,
        wire: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        connection.process_tls_records(wire)
    }
}

impl Side for Server {
    type Connection = UnbufferedServerConnection;
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(
        connection: &'c mut Self::Connection,
        wire: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        connection.process_tls_records(wire)
    }
}
