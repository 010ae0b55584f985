//! One microVM from outside: launch, supervise, talk to its agent.
