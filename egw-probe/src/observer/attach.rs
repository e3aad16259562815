//! Attaching to interfaces: which way is tried after which, and the links that hold.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, TcAttachType, XdpMode};
use aya::util::KernelVersion;
use egw_probe_common::packet::Link as Layer;

use crate::config::choice::AttachMode;
use crate::observer::clsact::{self, Claim};
use crate::observer::error::{KernelError, into_io};
use crate::observer::object::{self, Programs};
use crate::observer::privilege;
use crate::observer::view::Interface;

/// How an interface is attached to: the `mode` label of `egw_probe_target_ebpf_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// A TC link (kernel 6.6 and later).
    Tcx,
    /// A TC filter at the clsact qdisc.
    Clsact,
}

impl Mode {
    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Whether the kernel detaches by itself when the process ends in whatever way.
    pub const fn detaches_by_itself(self) -> bool {
        !matches!(self, Self::Clsact)
    }
}

/// The ways to try for a requested mode, in order. `tcx` is whether this kernel has it.
pub(crate) fn ways(requested: AttachMode, tcx: bool) -> Vec<Mode> {
    let tc: &[Mode] = if tcx { &[Mode::Tcx, Mode::Clsact] } else { &[Mode::Clsact] };
    match requested {
        AttachMode::Auto => [tc, &[Mode::XdpGeneric]].concat(),
        AttachMode::Tc => tc.to_vec(),
        AttachMode::XdpNative => [&[Mode::XdpNative, Mode::XdpGeneric], tc].concat(),
        AttachMode::XdpGeneric => [&[Mode::XdpGeneric], tc].concat(),
    }
}

/// The ways by which a mode that is named is to be had: all that is tried where it must be.
pub(crate) fn as_named(ways: &[Mode], requested: AttachMode) -> Vec<Mode> {
    ways.iter().copied().filter(|mode| is_what_was_named(requested, *mode)).collect()
}

/// Whether this mode is what was asked for.
const fn is_what_was_named(requested: AttachMode, mode: Mode) -> bool {
    match requested {
        AttachMode::Auto => true,
        AttachMode::XdpNative => matches!(mode, Mode::XdpNative),
        AttachMode::XdpGeneric => matches!(mode, Mode::XdpGeneric),
        AttachMode::Tc => matches!(mode, Mode::Tcx | Mode::Clsact),
    }
}

/// The way to try after `failed` was answered with `errno`; `None` to give up on this interface.
///
/// Another XDP program (`EBUSY`, or `EEXIST` in another mode) leaves no XDP mode, but TC. A driver that cannot
/// (`EOPNOTSUPP`), or not at this MTU (`ERANGE`, `EINVAL`), leaves the next mode. A TC mode gives way to any other one
/// except for want of a right, which the next would want too.
pub(crate) fn next_way(ways: &[Mode], failed: Mode, errno: Option<i32>) -> Option<Mode> {
    let rest = || ways.iter().skip_while(|way| **way != failed).skip(1).copied();
    let is_xdp = |way: &Mode| matches!(way, Mode::XdpNative | Mode::XdpGeneric);
    match errno {
        Some(libc::EPERM | libc::EACCES | libc::ENODEV) => None,
        Some(libc::EBUSY | libc::EEXIST) if is_xdp(&failed) => rest().find(|way| !is_xdp(way)),
        Some(libc::EOPNOTSUPP | libc::ERANGE | libc::EINVAL) if is_xdp(&failed) => rest().next(),
        _ if is_xdp(&failed) => None,
        _ => rest().next(),
    }
}

/// Whether this kernel has TC links.
pub(crate) fn kernel_has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

enum Held {
    // Dropping it closes the descriptor, and the kernel detaches.
    Link { _link: FdLink },
    Filter { _link: SchedClassifierLink },
}

/// One observed interface.
struct Attached {
    interface: Interface,
    mode: Mode,
    _held: Held,
}

/// An interface and how it is observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// The mode in force.
    pub mode: Mode,
}

/// The loaded programs and everything they are attached to. Dropping it detaches.
pub(crate) struct Attacher {
    // Before the claim and the object, so that it is dropped before them.
    attached: BTreeMap<u32, Attached>,
    clsact: io::Result<Claim>,
    ebpf: Ebpf,
    programs: Programs,
    requested: AttachMode,
    required: bool,
    ways: Vec<Mode>,
}

/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

impl Attacher {
    /// For programs that are already loaded. If it is `required`, a mode that is named is the only one tried, but for `lo`,
    /// which has no driver that XDP could be in.
    pub(crate) fn new(
        ebpf: Ebpf,
        programs: Programs,
        requested: AttachMode,
        required: bool,
        tcx: bool,
    ) -> Self {
        let ways = ways(requested, tcx);
        Self { attached: BTreeMap::new(), clsact: clsact::claim(), ebpf, programs, requested, required, ways }
    }

    /// Whether this interface is attached to.
    pub(crate) fn holds(&self, ifindex: u32) -> bool {
        self.attached.contains_key(&ifindex)
    }

    /// Everything attached to, by index.
    pub(crate) fn attachments(&self) -> Vec<Attachment> {
        self.attached
            .iter()
            .map(|(ifindex, attached)| Attachment {
                interface: attached.interface.name.clone(),
                ifindex: *ifindex,
                mode: attached.mode,
            })
            .collect()
    }

    /// Attaches to one interface by the first way that works.
    pub(crate) fn attach(&mut self, ifindex: u32, interface: &Interface) -> Result<Mode, KernelError> {
        let only_named = self.required && ifindex != LOOPBACK;
        let ways = if only_named { as_named(&self.ways, self.requested) } else { self.ways.clone() };
        let mut way = ways.first().copied();
        let mut last = None;
        while let Some(mode) = way {
            match self.attach_as(ifindex, interface, mode) {
                Ok(held) => {
                    let attached = Attached { interface: interface.clone(), mode, _held: held };
                    self.attached.insert(ifindex, attached);
                    if !is_what_was_named(self.requested, mode) {
                        self.tell_of_another(interface, mode, last.as_ref());
                    }
                    return Ok(mode);
                }
                Err(e) => {
                    tracing::debug!("{}: {} not to be had: {e}", interface.name, mode.label());
                    way = next_way(&ways, mode, e.raw_os_error());
                    last = Some(e);
                }
            }
        }
        let source = last.unwrap_or_else(|| io::Error::other("no way to try"));
        Err(match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => privilege::refused("attaching to an interface", source),
            Some(libc::ENODEV) => KernelError::System { doing: "attaching", source },
            _ if only_named && self.requested != AttachMode::Auto => {
                KernelError::NamedMode { requested: self.requested.name(), source }
            }
            _ => KernelError::System { doing: "attaching", source },
        })
    }

    fn tell_of_another(&self, interface: &Interface, mode: Mode, why: Option<&io::Error>) {
        let why = why.map_or_else(String::new, |error| format!(" ({error})"));
        let (requested, mode) = (self.requested.name(), mode.label());
        tracing::warn!(
            interface = interface.name,
            "--ebpf-attach {requested} is not to be had{why}: {mode} in its place"
        );
    }

    /// An interface has another name.
    pub(crate) fn rename(&mut self, ifindex: u32, name: &str) {
        if let Some(attached) = self.attached.get_mut(&ifindex) {
            name.clone_into(&mut attached.interface.name);
        }
    }

    /// Lets go of one interface: it is gone, or no longer selected.
    pub(crate) fn detach(&mut self, ifindex: u32) -> Option<Attachment> {
        let attached = self.attached.remove(&ifindex)?;
        Some(Attachment { interface: attached.interface.name.clone(), ifindex, mode: attached.mode })
    }

    fn attach_as(&mut self, ifindex: u32, interface: &Interface, mode: Mode) -> io::Result<Held> {
        match mode {
            Mode::XdpNative => self.attach_xdp(ifindex, interface, XdpMode::Driver),
            Mode::XdpGeneric => self.attach_xdp(ifindex, interface, XdpMode::Skb),
            Mode::Tcx => self.attach_tcx(interface),
            Mode::Clsact => self.attach_clsact(interface),
        }
    }

    fn attach_xdp(&mut self, ifindex: u32, interface: &Interface, mode: XdpMode) -> io::Result<Held> {
        let name = match interface.layer {
            Layer::Ethernet => self.programs.xdp,
            Layer::Ip => self.programs.xdp_l3,
        };
        let program = object::xdp(&mut self.ebpf, name).map_err(io::Error::other)?;
        let id = program.attach_to_if_index(ifindex, mode).map_err(into_io)?;
        let link = program.take_link(id).map_err(into_io)?;
        // aya goes back to a netlink attachment where the kernel refuses a link. That one would outlive a killed process,
        // so it is no way for us; dropping it detaches.
        let link = FdLink::try_from(link).map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(Held::Link { _link: link })
    }

    fn attach_tcx(&mut self, interface: &Interface) -> io::Result<Held> {
        let name = self.tc_name(interface);
        let program = object::tc(&mut self.ebpf, name).map_err(io::Error::other)?;
        // First, so that no program of others that takes the packet away hides it.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id =
            program.attach_with_options(&interface.name, TcAttachType::Ingress, order).map_err(into_io)?;
        let link = program.take_link(id).map_err(into_io)?;
        let link = FdLink::try_from(link).map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(Held::Link { _link: link })
    }

    fn attach_clsact(&mut self, interface: &Interface) -> io::Result<Held> {
        let name = self.tc_name(interface);
        let claim = self.clsact.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let program = object::tc(&mut self.ebpf, name).map_err(io::Error::other)?;
        Ok(Held::Filter { _link: clsact::attach(program, &interface.name, claim)? })
    }

    const fn tc_name(&self, interface: &Interface) -> &'static str {
        match interface.layer {
            Layer::Ethernet => self.programs.tc,
            Layer::Ip => self.programs.tc_l3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_prefers_tcx_then_clsact_then_generic_xdp() {
        assert_eq!(ways(AttachMode::Auto, true), [Mode::Tcx, Mode::Clsact, Mode::XdpGeneric]);
        assert_eq!(ways(AttachMode::Auto, false), [Mode::Clsact, Mode::XdpGeneric]);
    }

    #[test]
    fn native_xdp_is_only_tried_when_named() {
        for requested in [AttachMode::Auto, AttachMode::XdpGeneric, AttachMode::Tc] {
            assert!(!ways(requested, true).contains(&Mode::XdpNative));
        }
        assert_eq!(ways(AttachMode::XdpNative, true)[0], Mode::XdpNative);
    }

    #[test]
    fn where_a_named_mode_must_be_had_no_other_is_tried() {
        for (requested, tcx, tried) in [
            (AttachMode::XdpNative, true, &[Mode::XdpNative][..]),
            (AttachMode::XdpGeneric, true, &[Mode::XdpGeneric]),
            (AttachMode::Tc, true, &[Mode::Tcx, Mode::Clsact]),
            (AttachMode::Auto, false, &[Mode::Clsact, Mode::XdpGeneric]),
        ] {
            assert_eq!(as_named(&ways(requested, tcx), requested), tried);
        }
    }

    #[test]
    fn a_driver_without_xdp_leaves_generic_xdp() {
        let ways = ways(AttachMode::XdpNative, true);
        for errno in [libc::EOPNOTSUPP, libc::ERANGE, libc::EINVAL] {
            assert_eq!(next_way(&ways, Mode::XdpNative, Some(errno)), Some(Mode::XdpGeneric));
        }
    }

    #[test]
    fn anothers_xdp_program_leaves_tc() {
        let ways = ways(AttachMode::XdpNative, true);
        assert_eq!(next_way(&ways, Mode::XdpNative, Some(libc::EBUSY)), Some(Mode::Tcx));
        assert_eq!(next_way(&ways, Mode::XdpGeneric, Some(libc::EEXIST)), Some(Mode::Tcx));
    }

    #[test]
    fn a_kernel_without_tc_leaves_generic_xdp_and_nothing_after_it() {
        let ways = ways(AttachMode::Auto, true);
        assert_eq!(next_way(&ways, Mode::Tcx, Some(libc::EOPNOTSUPP)), Some(Mode::Clsact));
        assert_eq!(next_way(&ways, Mode::Clsact, Some(libc::ENOENT)), Some(Mode::XdpGeneric));
        assert_eq!(next_way(&ways, Mode::XdpGeneric, Some(libc::EOPNOTSUPP)), None);
    }

    #[test]
    fn a_missing_right_or_a_vanished_interface_ends_the_search() {
        let ways = ways(AttachMode::Auto, true);
        for errno in [libc::EPERM, libc::EACCES, libc::ENODEV] {
            assert_eq!(next_way(&ways, Mode::Tcx, Some(errno)), None);
        }
    }
}
