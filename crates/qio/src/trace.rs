//! Events for the crate `tracing`, with target `qio`, if the feature of that name is on.

/// Emits an event of a level (`debug`, `warn`…), or is nothing at all without the feature.
///
/// Fields are evaluated only when somebody listens.
macro_rules! event {
    ($level:ident, $($event:tt)+) => {
        #[cfg(feature = "tracing")]
        ::tracing::$level!(target: "qio", $($event)+)
    };
}
