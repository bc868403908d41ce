//! Sessions of TLS over real channels.
