//! The cases, in the groups and the order of the contract.

pub(crate) mod acquiring;
pub(crate) mod capabilities;
pub(crate) mod deadline;
pub(crate) mod exclusion;
pub(crate) mod faults;
pub(crate) mod inspect_evict;
pub(crate) mod kinds;
pub(crate) mod loss;
pub(crate) mod modes;
pub(crate) mod names;
pub(crate) mod releasing;
pub(crate) mod renewing;
pub(crate) mod secrets;
pub(crate) mod servers;
pub(crate) mod token;
pub(crate) mod waiting;

mod cancelling;
mod downgrading;
mod failover;
mod handover;
mod mixed_modes;
mod slow_network;
