//! Worker threads over (scenario, variant, seed): every core runs, results come out in the order of the
//! tasks.

use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One run to do: indexes into the scenarios and their variants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Task {
    pub scenario: usize,
    pub variant: usize,
    pub seed: u64,
}

/// Does all `tasks`, `jobs` at a time, and returns the results in their order.
pub fn run_all<R: Send>(tasks: &[Task], jobs: Option<u16>, work: impl Fn(usize, Task) -> R + Sync) -> Vec<R> {
    let jobs = jobs.map_or_else(cores, usize::from).min(tasks.len()).max(1);
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(tasks.iter().map(|_| None).collect());
    let progress = progress_bar(tasks.len());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let index = index_of(tasks, task);
                    let result = work(index, *task);
                    lock(&results)[index] = Some(result);
                    progress.inc(1);
                }
            });
        }
    });
    progress.finish_and_clear();
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| result.expect("every task was done, or the scope has panicked")).collect()
}

fn index_of(tasks: &[Task], task: &Task) -> usize {
    tasks.element_offset(task).expect("the task is an element of the slice")
}

/// A lock whose data is whole even if a holder panicked: it is only ever replaced in one step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Worker threads without `--jobs`: one per core.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// A bar on stderr if that is a terminal and there is something to wait for.
fn progress_bar(tasks: usize) -> ProgressBar {
    if tasks < 2 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(tasks as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left");
    bar.set_style(style.expect("the template is constant and valid"));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_tasks() {
        let tasks: Vec<Task> = (0..100).map(|n| Task { scenario: n / 10, variant: n % 10, seed: n as u64 }).collect();
        for jobs in [1, 7] {
            let results = run_all(&tasks, Some(jobs), |index, task| {
                if index % 3 == 0 {
                    std::thread::yield_now();
                }
                (index, task.seed)
            });
            assert!(results.iter().enumerate().all(|(n, result)| *result == (n, n as u64)));
        }
    }
}
