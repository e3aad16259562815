//! The program, its library and its kernel object as a whole: one binary, so that they are linked once.

mod common;
mod kernel;
mod synthetic;

mod client;
mod compatibility;
mod denied;
mod deploy;
mod diagnosis;
mod ebpf;
mod egress;
mod environment;
mod faults;
mod gateway;
mod held_up;
mod hostile;
mod hostile_packets;
// By the registers of its processor.
#[cfg(target_arch = "x86_64")]
mod inside;
mod kernel_attach;
mod kernel_detach;
mod kernel_frames;
mod kernel_object;
mod kernel_privilege;
mod kernel_shortfall;
mod kernel_stack;
mod kernel_unobserved;
mod lost_output;
#[cfg(feature = "report")]
mod report;
#[cfg(feature = "report")]
mod report_certain;
#[cfg(feature = "report")]
mod report_doubt;
#[cfg(feature = "https")]
mod report_https;
#[cfg(feature = "report")]
mod report_leaks;
#[cfg(feature = "report")]
mod report_live;
#[cfg(feature = "report")]
mod report_logs;
#[cfg(feature = "report")]
mod report_numpy;
#[cfg(feature = "report")]
mod report_outputs;
#[cfg(feature = "report")]
mod report_page;
#[cfg(feature = "report")]
mod report_scale;
mod rights;
mod route;
mod stress;
mod stress_leaks;
#[cfg(target_arch = "x86_64")]
mod taken_over;
mod target;
