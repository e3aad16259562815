//! The observer in the kernel. Thin over `egw-probe-common`.
#![no_std]
