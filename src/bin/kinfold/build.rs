//! On macOS, puts `Info.plist` into the program: without it the system cannot say why kinfold wants the
//! local network, and a launch agent is refused there without a question (Apple TN3179).

fn main() {
    const PLIST: &str = "src/bin/kinfold/Info.plist";
    println!("cargo::rerun-if-changed={PLIST}");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") == "macos" {
        let path = format!("{}/{PLIST}", variable("CARGO_MANIFEST_DIR"));
        // One word each, so that a comma in the path does no harm.
        for word in ["-sectcreate", "__TEXT", "__info_plist", &path] {
            println!("cargo::rustc-link-arg-bins=-Xlinker");
            println!("cargo::rustc-link-arg-bins={word}");
        }
    }
}
