//! The CIDRs of `--allowed-cidr` and of the files that `--allowed-cidr-file` names.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::cli::target::written_cidr;
use crate::config::error::ConfigError;

const FILE: &str = "--allowed-cidr-file";

/// Most CIDRs of a family: about as many as the Internet has routes.
const MOST: usize = 1_000_000;

/// Those of the flag and of the files, with their host bits.
pub(super) fn written(mut all: Vec<IpNet>, files: &[PathBuf]) -> Result<Vec<IpNet>, ConfigError> {
    for file in files {
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError::new(FILE, file.display(), format!("cannot be read: {error}")))?;
        all.extend(listed(file, &text)?);
    }
    if let (true, Some(file)) = (all.is_empty(), files.first()) {
        return Err(ConfigError::new(FILE, file.display(), "no CIDR in it: every source would be denied"));
    }
    let of_ipv4 = all.iter().filter(|net| net.addr().is_ipv4()).count();
    let most = of_ipv4.max(all.len() - of_ipv4);
    if most > MOST {
        let flag = if files.is_empty() { "--allowed-cidr" } else { FILE };
        return Err(ConfigError::new(flag, most, format!("more than {MOST} CIDRs of one family: join some")));
    }
    Ok(all)
}

fn listed(file: &Path, text: &str) -> Result<Vec<IpNet>, ConfigError> {
    let mut nets = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let said = line.split_once('#').map_or(line, |(said, _)| said);
        for word in said.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let net = written_cidr(word).map_err(|remedy| {
                let place = format!("{}:{number}", file.display());
                ConfigError::new(FILE, place, format!("\"{word}\": {remedy}"))
            })?;
            nets.push(net);
        }
    }
    Ok(nets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let nets = listed(Path::new("/etc/egress"), text).map_err(|error| error.to_string())?;
        Ok(nets.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_file_has_one_cidr_a_line_or_several_and_comments() {
        let text =
            "# egress\n\n192.0.2.0/24 # zone a\r\n\t203.0.113.7/32, 2001:db8::/64,\n#198.51.100.0/24\n";
        assert_eq!(read(text).unwrap(), ["192.0.2.0/24", "203.0.113.7/32", "2001:db8::/64"]);
        assert_eq!(read("").unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line() {
        for (text, expected) in [
            (
                "192.0.2.0/24\n\n203.0.113.7",
                "--allowed-cidr-file: \"/etc/egress:3\": \"203.0.113.7\": the prefix length is missing: write \
                 203.0.113.7/32",
            ),
            (
                "10.0.0.0/8 192.0.2.0/24",
                "--allowed-cidr-file: \"/etc/egress:1\": \"10.0.0.0/8 192.0.2.0/24\": not a CIDR: write address/length, \
                 as in 203.0.113.0/24 or 2001:db8::/64",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn more_than_a_million_of_a_family_are_refused_by_their_number() {
        let nets: Vec<IpNet> =
            (0..=MOST as u32).map(|n| IpNet::new(n.to_be_bytes().into(), 32).unwrap()).collect();
        assert_eq!(written(nets[1..].to_vec(), &[]).unwrap().len(), MOST);
        let told = written(nets, &[]).unwrap_err().to_string();
        assert_eq!(told, "--allowed-cidr: \"1000001\": more than 1000000 CIDRs of one family: join some");
    }
}
