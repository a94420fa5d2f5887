//! Event rows, as the stream machines make them and the sinks take them.
