"""Job templates: Open Job Description documents read, checked and turned into steps of a job.

A template is a stranger's text: it is read in a child process with limits, after sums have shown
that it describes no more tasks than a job may have.
"""
