//! The oldest versions of the crates that security rests on, held against `Cargo.lock`.

/// Below each lie versions with published advisories, or without what the TLS profile asks for.
const FLOORS: &[(&str, [u64; 3])] = &[
    ("quinn-proto", [0, 11, 19]),
    ("rustls", [0, 23, 46]),
    ("rustls-webpki", [0, 103, 16]),
    ("curve25519-dalek", [4, 1, 3]),
];

/// Two of one of these would be two implementations to trust, and two to keep up to date.
const SINGLE: &[&str] = &[
    "blake3",
    "bytes",
    "chacha20poly1305",
    "curve25519-dalek",
    "ed25519-dalek",
    "quinn-proto",
    "rand_core",
    "rustls",
    "rustls-webpki",
    "subtle",
    "zeroize",
];

#[test]
fn no_crate_is_below_its_floor() {
    let packages = packages();
    for (name, floor) in FLOORS {
        let found: Vec<[u64; 3]> = versions(&packages, name);
        assert!(!found.is_empty(), "{name} is not in Cargo.lock");
        assert!(
            found.iter().all(|version| version >= floor),
            "{name} {found:?}, at least {floor:?} is needed"
        );
    }
}

#[test]
fn each_primitive_is_there_once() {
    let packages = packages();
    for name in SINGLE {
        assert_eq!(versions(&packages, name).len(), 1, "{name}");
    }
}

fn packages() -> Vec<(String, String)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let text = std::fs::read_to_string(path).expect("the lock file is part of the package");
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let blocks = text.split("[[package]]").skip(1);
    blocks.filter_map(|block| Some((field(block, "name")?, field(block, "version")?))).collect()
}

fn versions(packages: &[(String, String)], name: &str) -> Vec<[u64; 3]> {
    let parse = |version: &str| {
        let core = version.split(['-', '+']).next().unwrap_or(version);
        let mut numbers = core.split('.').map(|number| number.parse().expect("a number"));
        std::array::from_fn(|_| numbers.next().expect("three numbers"))
    };
    packages.iter().filter(|(found, _)| found == name).map(|(_, version)| parse(version)).collect()
}
