//! The bus on a real `redis-server`, each test with one of its own: what arrives, what faults do, what forgery does, and that
//! credentials stay where they are.

#[cfg(test)]
mod bus {
    mod anchor;
    mod faults;
    mod hint;
    mod records;
    mod secrets;
    mod world;
}
