//! Can this machine run Vial?
