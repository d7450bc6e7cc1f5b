//! A `tracing` span and an access-log event per RPC.
