//! Which file imports what from which other file, and the circles among them. Pure: modules in, circles out.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::Tree;

/// How many imports of imports are followed to where a thing is defined.
const DEEPEST: u8 = 16;

/// By indices of the importing and the imported file: the names.
pub(super) type Arrows = BTreeMap<(usize, usize), BTreeSet<String>>;

/// What a path leads to.
#[derive(Debug)]
enum Found {
    Module(usize),
    Item { file: usize, name: String },
}

/// The imports between files. Who imports a module and uses what it re-exports, imports from where that is defined.
pub(super) fn arrows(tree: &Tree) -> Arrows {
    let mut arrows = Arrows::new();
    for (number, module) in tree.modules.iter().enumerate() {
        let mut point = |file: usize, name: String| {
            if file != module.file {
                arrows.entry((module.file, file)).or_default().insert(name);
            }
        };
        for import in &module.imports {
            match find(tree, number, &import.path, DEEPEST) {
                Some(Found::Item { file, name }) => point(file, name),
                Some(Found::Module(all)) if import.name.is_none() => {
                    point(tree.modules[all].file, "*".into());
                }
                // What is used of it is found among the paths.
                Some(Found::Module(_)) | None => {}
            }
        }
        for path in &module.paths {
            if let Some(Found::Item { file, name }) = find(tree, number, path, DEEPEST) {
                point(file, name);
            }
        }
    }
    arrows
}

fn find(tree: &Tree, from: usize, path: &[String], depth: u8) -> Option<Found> {
    let (first, rest) = path.split_first()?;
    if first == "crate" { descend(tree, 0, rest, depth) } else { descend(tree, from, path, depth) }
}

fn descend(tree: &Tree, start: usize, path: &[String], depth: u8) -> Option<Found> {
    let depth = depth.checked_sub(1)?;
    let Some((name, rest)) = path.split_first() else { return Some(Found::Module(start)) };
    let module = &tree.modules[start];
    let item = || Some(Found::Item { file: module.file, name: name.clone() });
    match name.as_str() {
        "self" => return descend(tree, start, rest, depth),
        "super" => return descend(tree, module.parent?, rest, depth),
        _ if rest.is_empty() && module.items.contains(name) => return item(),
        _ => {}
    }
    if let Some(child) = module.children.get(name) {
        return descend(tree, *child, rest, depth);
    }
    if module.items.contains(name) {
        return item();
    }
    module.imports.iter().find_map(|import| match &import.name {
        Some(as_name) if as_name == name => match find(tree, start, &import.path, depth)? {
            Found::Module(module) => descend(tree, module, rest, depth),
            item @ Found::Item { .. } => Some(item),
        },
        Some(_) => None,
        None => match find(tree, start, &import.path, depth)? {
            Found::Module(module) if module != start => descend(tree, module, path, depth),
            _ => None,
        },
    })
}

/// Sets of more than one file of which each imports, by way of others, from each other.
pub(super) fn circles(files: usize, arrows: &Arrows) -> Vec<Vec<usize>> {
    let reached: Vec<BTreeSet<usize>> = (0..files).map(|file| reached_from(file, arrows)).collect();
    let mut circles: Vec<Vec<usize>> = (0..files)
        .map(|file| reached[file].iter().copied().filter(|other| reached[*other].contains(&file)).collect())
        .filter(|circle: &Vec<usize>| circle.len() > 1)
        .collect();
    circles.sort();
    circles.dedup();
    circles
}

fn reached_from(file: usize, arrows: &Arrows) -> BTreeSet<usize> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![file]);
    while let Some(from) = next.pop() {
        next.extend(arrows.keys().filter(|(a, b)| *a == from && reached.insert(*b)).map(|(_, b)| *b));
    }
    reached
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The arrows of a crate of these files, by file names.
    fn read(files: &[(&str, &str)]) -> (Vec<String>, Vec<Vec<String>>) {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("egw-house-{}-{number}", std::process::id()));
        for (name, text) in files {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), text).unwrap();
        }
        let tree = Tree::read(&folder.join("lib.rs")).unwrap();
        let name = |file: usize| tree.files[file].path.strip_prefix(&folder).unwrap().display().to_string();
        let arrows = arrows(&tree);
        let told = |((from, to), names): (&(usize, usize), &BTreeSet<String>)| {
            let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            format!("{} -> {}: {names}", name(*from), name(*to))
        };
        let mut all: Vec<String> = arrows.iter().map(told).collect();
        all.sort();
        let circles = circles(tree.files.len(), &arrows);
        fs::remove_dir_all(&folder).unwrap();
        (all, circles.iter().map(|circle| circle.iter().map(|file| name(*file)).collect()).collect())
    }

    #[test]
    fn whatever_names_a_thing_of_another_file_imports_it_from_where_it_is_defined() {
        let (arrows, circles) = read(&[
            ("lib.rs", "mod a; mod b; pub use b::deep::Deep as Low;"),
            ("a.rs", "use crate::Low; use super::b; fn f() { println!(\"{}\", b::deep::g()) }"),
            ("b/mod.rs", "pub mod deep; struct Own; impl crate::a::Trait for Own {}"),
            (
                "b/deep.rs",
                "pub struct Deep; pub fn g() {} #[serde(with = \"crate::a::f\")] pub struct Other;",
            ),
        ]);
        assert_eq!(
            arrows,
            ["a.rs -> b/deep.rs: Deep g", "b/deep.rs -> a.rs: f", "lib.rs -> b/deep.rs: Deep"]
        );
        assert_eq!(circles.concat().len(), 2, "{circles:?}");
    }

    #[test]
    fn a_child_that_uses_its_parent_is_in_a_circle_with_it_and_one_in_tests_is_not() {
        let parent = "mod child; use child::run; pub const LIMIT: u8 = 1;";
        let tie = [("lib.rs", parent), ("child.rs", "use super::LIMIT; pub fn run() {}")];
        assert_eq!(read(&tie).1.concat().len(), 2);
        let test = "pub fn run() {} #[cfg(test)] mod tests { use crate::LIMIT; }";
        assert!(read(&[("lib.rs", parent), ("child.rs", test)]).1.is_empty());
    }
}
