//! First bytes of a connection: which protocol is this?
