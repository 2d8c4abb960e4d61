//! Tests of the scripts on a real server.

mod batching;
mod last_token;
mod model;
