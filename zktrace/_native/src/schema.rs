//! The wire schema, parsed from the text that Python hands over. No opcode is written down here.
