//! `cargo bench` prints the benchmark ledger, as `faultline bench` does.

fn main() {
    let rows = faultline::lab::bench::ledger(|name| eprintln!("measuring {name}"));
    print!("{}", faultline::lab::bench::render(&rows));
}
