//! Types of the daemon's API.
