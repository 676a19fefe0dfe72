//! `cargo bench` prints the benchmark ledger, as `faultline bench` does.

use faultline::lab::bench::Ledger;

fn main() {
    let announce = |name: &str| eprintln!("measuring {name}");
    let mut ledger = Ledger::new(&[], &announce);
    faultline::lab::bench::measure(&mut ledger);
    faultline::check::bench::measure(&mut ledger);
    print!("{}", faultline::lab::bench::render(&ledger.rows()));
}
