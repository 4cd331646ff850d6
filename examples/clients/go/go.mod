module example.org/p2prc-example

go 1.22
