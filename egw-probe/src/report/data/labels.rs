//! Values of a label, each kept once. Pure.

use std::collections::HashMap;

/// Values by their numbers, from 1: a client keeps the number.
#[derive(Debug, Clone, Default)]
pub struct Values {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Values {
    /// The number of a value; 0 beyond `most` values.
    pub fn number(&mut self, value: &str, most: u32) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = self.names.len() as u32 + 1;
        if number > most {
            return 0;
        }
        self.names.push(value.to_owned());
        self.numbers.insert(value.to_owned(), number);
        number
    }

    /// The values, that of number 1 first.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}
