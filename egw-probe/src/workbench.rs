//! What benches, fuzzers, integration tests and simulators drive directly. No promise to anybody else.

/// The client's decisions and its reading of replies.
pub mod client {
    pub use crate::client::bracket::{Bracket, Judge};
    pub use crate::client::disruptions::Event as WatchEvent;
    pub use crate::client::holding::{Act, HeldFact, Holding};
    pub use crate::client::inflight::{Launch, ProbeId};
    pub use crate::client::outcome::{Probe, ProbeEnd};
    pub use crate::client::ports::{PortWalk, SourcePort};
    pub use crate::client::probing::{Ended, Event as ProbeEvent, Fact, Findings, Probing, Rules};
    pub use crate::client::reply::{Annotation, Reply, annotation};
    pub use crate::client::stall::Seen;
    pub use crate::client::stress::series::{Event, Series};
}

/// Flags.
pub mod config {
    pub use crate::cli::target::parse_cidr;
    pub use crate::config::choice::{AttachMode, Selection};
    pub use crate::config::client::WatchConfig;
}

/// The target's decisions.
pub mod external_target {
    pub use crate::external_target::clients::{ClientTable, Clients};
    pub use crate::external_target::verdict::AllowedSources;
}

/// The kernel side.
pub mod observer {
    pub use crate::observer::attach::Mode;
    pub use crate::observer::correlate::{Correlator, HalfOpen, Joined, SynKind};
    pub use crate::observer::error::KernelError;
    pub use crate::observer::event::{SynSeen, parse};
    pub use crate::observer::join::Join;
    pub use crate::observer::metrics::KernelMetrics;
    pub use crate::observer::object::{
        MAX_OWN, OBJECT, Programs, Settings, TagSettings, load, take_map, tc, xdp,
    };
    pub use crate::observer::privilege::NEEDED;
    pub use crate::observer::queue::{Accepted, Queue};
    pub use crate::observer::shared::{ClassTotals, ObserverHandle};
    pub use crate::observer::shortfall::Shortfall;
    pub use crate::observer::task::{KernelConfig, KernelObserver};
    pub use crate::observer::view::{HostView, Interface, News};
}

/// From results to a report.
#[cfg(feature = "report")]
pub mod report {
    pub use crate::report::data::client::{ClientResult, Reading, Verdict};
    pub use crate::report::data::interval::Interval;
    pub use crate::report::data::run::{Bounds, Comparison, Found as Compared, Run};
    pub use crate::report::read::corpus::Corpus;
    pub use crate::report::read::document::{Found, Refusal, read};
    pub use crate::report::read::exposition::{Clients, clients, parse_answer, parse_text};
    pub use crate::report::read::input::take;
    pub use crate::report::read::split::Piece;
    pub use crate::report::read::stream::Stream;
    pub use crate::report::stats::compare::compare;
    pub use crate::report::stats::ranks::{ALPHA, Ends};
    pub use crate::report::stats::run::of as sum_up;
}

/// The rim.
pub mod sys {
    pub use crate::sys::clock::Monotonic;
    pub use crate::sys::http::converse;
    pub use crate::sys::page::{Answer, Page, Pages};
    pub use crate::sys::sandbox::keep_only;
}
