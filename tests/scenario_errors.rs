//! What a user reads when a scenario file is wrong: one file per kind of mistake, its rendered error as a snapshot.

use std::path::{Path, PathBuf};

use faultline::scenario::{find_files, load};

fn wrong_files() -> Vec<PathBuf> {
    find_files(&[PathBuf::from("tests/fixtures/wrong")]).expect("fixtures exist")
}

#[test]
fn every_wrong_file_gets_an_error_that_points_at_the_place() {
    for path in wrong_files() {
        let stem = path.file_stem().expect("found by its extension").to_string_lossy().into_owned();
        let error = match load(&path) {
            Ok(_) => panic!("{} was accepted", path.display()),
            Err(error) => error,
        };
        insta::assert_snapshot!(stem, error.render(false, 120));
    }
}

#[test]
fn every_mistake_has_a_line_of_the_file() {
    for path in wrong_files() {
        let text = std::fs::read_to_string(&path).expect("a fixture is readable");
        let error = load(&path).expect_err("a wrong file");
        assert!(!error.mistakes.is_empty(), "{}", path.display());
        for mistake in &error.mistakes {
            assert!((1..=text.lines().count() + 1).contains(&mistake.line), "{}: {mistake:?}", path.display());
            assert!(mistake.column >= 1, "{}: {mistake:?}", path.display());
        }
    }
}

#[test]
fn colour_changes_no_word() {
    let path = Path::new("tests/fixtures/wrong/many_mistakes.toml");
    let error = load(path).expect_err("a wrong file");
    let (plain, colored) = (error.render(false, 120), error.render(true, 120));
    assert!(plain.is_ascii() && colored.contains('\u{1b}'));
    for mistake in &error.mistakes {
        assert!(plain.contains(&mistake.message) && colored.contains(&mistake.message), "{}", mistake.message);
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error_of_its_own() {
    let error = load(Path::new("tests/fixtures/no_such.toml")).expect_err("there is no such file");
    assert_eq!((error.mistakes[0].line, error.mistakes[0].column), (0, 0));
    insta::assert_snapshot!("no_such_file", error.render(false, 120));
}
