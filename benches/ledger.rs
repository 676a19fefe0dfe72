//! `cargo bench` prints the benchmark ledger, as `faultline bench` does.

fn main() {
    let announce = |name: &str| eprintln!("measuring {name}");
    let mut rows = faultline::lab::bench::ledger(announce);
    rows.extend(faultline::check::bench::ledger(announce));
    print!("{}", faultline::lab::bench::render(&rows));
}
