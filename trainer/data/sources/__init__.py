"""What `prepare` reads: each module makes labelled images of one kind of source."""
