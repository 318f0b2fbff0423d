-- Why: gaps are deleted by their end once nothing is kept of that time, and there may be millions of them.

create index gap_by_end on gap (before_at);
