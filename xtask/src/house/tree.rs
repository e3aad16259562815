//! The modules of a crate, read from its files: what each declares, imports and names. Modules that only tests are built with are
//! left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// A path as it is written: `super::child::Child`.
pub(super) type Words = Vec<String>;

/// A crate.
#[derive(Default)]
pub(super) struct Tree {
    /// The first one is the crate's root.
    pub(super) modules: Vec<Module>,
    pub(super) files: Vec<File>,
}

/// A file of it.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) lines: usize,
    pub(super) functions: Vec<Function>,
    /// Lines whose `#[derive]` does not begin with `Debug`.
    pub(super) derives: Vec<usize>,
}

/// A function, from its signature to its closing brace.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
}

/// A module, inline or a file of its own.
#[derive(Default)]
pub(super) struct Module {
    /// Index of the file that it is written in.
    pub(super) file: usize,
    pub(super) parent: Option<usize>,
    pub(super) children: BTreeMap<String, usize>,
    pub(super) items: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    /// Paths of more than one word in its code.
    pub(super) paths: BTreeSet<Words>,
    /// Its `use` items as they stand, in order.
    pub(super) uses: Vec<syn::ItemUse>,
}

/// One name that a `use` brings in; None brings in all.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) name: Option<String>,
    pub(super) path: Words,
}

impl Tree {
    /// Reads the crate whose root is this file.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let mut unread = vec![(None, String::new(), root.to_owned())];
        while let Some((parent, name, path)) = unread.pop() {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let syntax = syn::parse_file(&text).with_context(|| path.display().to_string())?;
            let is_folder = parent.is_none() || path.ends_with("mod.rs");
            let folder = if is_folder { path.parent().expect("a file") } else { &path.with_extension("") };
            let folder = folder.to_owned();
            let lines = text.lines().count();
            tree.files.push(File { path, lines, functions: vec![], derives: vec![] });
            let module = tree.add(parent, &name, tree.files.len() - 1);
            Reader { tree: &mut tree, module, folder, unread: &mut unread }.items(&syntax.items);
        }
        Ok(tree)
    }

    fn add(&mut self, parent: Option<usize>, name: &str, file: usize) -> usize {
        let module = self.modules.len();
        self.modules.push(Module { file, parent, ..Module::default() });
        if let Some(parent) = parent {
            self.modules[parent].children.insert(name.to_owned(), module);
        }
        module
    }
}

/// Reads one module.
struct Reader<'tree> {
    tree: &'tree mut Tree,
    module: usize,
    /// Where files of its modules lie.
    folder: PathBuf,
    unread: &'tree mut Vec<(Option<usize>, String, PathBuf)>,
}

impl Reader<'_> {
    fn items(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Mod(module) if is_for_tests(&module.attrs) => {}
                Item::Mod(module) => self.child(module),
                Item::Use(one) if is_for_tests(&one.attrs) => {}
                Item::Use(one) => {
                    self.module().uses.push(one.clone());
                    self.visit_item_use(one);
                }
                item => {
                    self.declare(item);
                    self.visit_item(item);
                }
            }
        }
    }

    fn module(&mut self) -> &mut Module {
        &mut self.tree.modules[self.module]
    }

    fn file(&mut self) -> &mut File {
        let file = self.module().file;
        &mut self.tree.files[file]
    }

    fn child(&mut self, child: &syn::ItemMod) {
        let name = child.ident.to_string();
        if let Some((_, items)) = &child.content {
            let file = self.module().file;
            let module = self.tree.add(Some(self.module), &name, file);
            let folder = self.folder.join(&name);
            Reader { tree: self.tree, module, folder, unread: self.unread }.items(items);
            return;
        }
        let beside = self.folder.join(format!("{name}.rs"));
        let path = if beside.exists() { beside } else { self.folder.join(&name).join("mod.rs") };
        self.unread.push((Some(self.module), name, path));
    }

    fn declare(&mut self, item: &Item) {
        let name = match item {
            Item::Const(one) => &one.ident,
            Item::Enum(one) => &one.ident,
            Item::Fn(one) => &one.sig.ident,
            Item::Static(one) => &one.ident,
            Item::Struct(one) => &one.ident,
            Item::Trait(one) => &one.ident,
            Item::Type(one) => &one.ident,
            Item::Union(one) => &one.ident,
            _ => return,
        };
        self.module().items.insert(name.to_string());
    }

    fn import(&mut self, mut path: Words, tree: &UseTree) {
        match tree {
            UseTree::Path(one) => {
                path.push(one.ident.to_string());
                self.import(path, &one.tree);
            }
            UseTree::Group(group) => group.items.iter().for_each(|one| self.import(path.clone(), one)),
            UseTree::Glob(_) => self.module().imports.push(Import { name: None, path }),
            UseTree::Name(one) if one.ident == "self" => {
                self.module().imports.push(Import { name: path.last().cloned(), path });
            }
            UseTree::Name(one) => {
                path.push(one.ident.to_string());
                self.module().imports.push(Import { name: Some(one.ident.to_string()), path });
            }
            UseTree::Rename(one) => {
                path.push(one.ident.to_string());
                self.module().imports.push(Import { name: Some(one.rename.to_string()), path });
            }
        }
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.span().start().line;
        let lines = block.span().end().line + 1 - line;
        self.file().functions.push(Function { name: signature.ident.to_string(), line, lines });
    }

    /// Paths inside macros and attributes, which are tokens and nothing more.
    fn tokens(&mut self, tokens: TokenStream, strings: bool) {
        let mut path = Words::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) if colons == 2 || path.is_empty() => path.push(word.to_string()),
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => {
                    colons = colons % 2 + 1;
                    continue;
                }
                other => {
                    self.name(std::mem::take(&mut path));
                    match other {
                        TokenTree::Ident(word) => path.push(word.to_string()),
                        TokenTree::Group(group) => self.tokens(group.stream(), strings),
                        // serde names functions by strings.
                        TokenTree::Literal(text) if strings => {
                            let words = text.to_string();
                            self.name(words.trim_matches('"').split("::").map(str::to_owned).collect());
                        }
                        _ => {}
                    }
                }
            }
            colons = 0;
        }
        self.name(path);
    }

    fn name(&mut self, path: Words) {
        if path.len() > 1 {
            self.module().paths.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(vec![], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.name(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, one: &'ast syn::Macro) {
        self.tokens(one.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let syn::Meta::List(list) = &attribute.meta else { return };
        let mut words = list.tokens.clone().into_iter().map(|token| token.to_string());
        if list.path.is_ident("derive") && words.clone().any(|word| word == "Debug") {
            if words.next().as_deref() != Some("Debug") {
                let line = attribute.span().start().line;
                self.file().derives.push(line);
            }
        } else {
            self.tokens(list.tokens.clone(), true);
        }
    }

    /// `pub(in crate::lab)` is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }
}

/// Whether it is only there for tests.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || matches!(&attribute.meta, syn::Meta::List(list) if list.path.is_ident("cfg")
                && list.tokens.to_string() == "test")
    })
}
