// A program that uses a p2prc node: who is there, free words, an error, a command and its output.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"

	"example.org/p2prc-example/p2prc"
)

func withToken(_ context.Context, request *http.Request) error {
	request.Header.Set("Authorization", "Bearer "+os.Getenv("P2PRC_TOKEN"))
	return nil
}

func say(fact map[string]any) {
	line, err := json.Marshal(fact)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	ctx, url := context.Background(), os.Getenv("P2PRC_API")
	node, err := p2prc.NewClientWithResponses(url, p2prc.WithRequestEditorFn(withToken))
	check(err)

	nodes, err := node.NodesWithResponse(ctx)
	check(err)
	names := []string{}
	for _, each := range *nodes.JSON200 {
		names = append(names, each.Name)
	}
	say(map[string]any{"nodes": names})

	changes := p2prc.MetadataRequest{Changes: map[string]string{"from": "go"}}
	told, err := node.ChangeMetadataWithResponse(ctx, changes)
	check(err)
	say(map[string]any{"told": *told.JSON200})

	nobody := "nobody"
	specs, err := node.SpecsWithResponse(ctx, &p2prc.SpecsParams{Node: &nobody})
	check(err)
	say(map[string]any{"refused": specs.JSON404.Error.Code, "status": specs.StatusCode()})

	printed, exit := run(ctx, node)
	say(map[string]any{"printed": printed, "exit": exit})

	stranger, err := p2prc.NewClientWithResponses(url)
	check(err)
	refused, err := stranger.NodesWithResponse(ctx)
	check(err)
	say(map[string]any{"withoutToken": refused.StatusCode()})
}

// A stream: one event a line.
func run(ctx context.Context, node *p2prc.ClientWithResponses) (printed string, exit int) {
	target := "ada"
	answer, err := node.Run(ctx, p2prc.RunRequest{
		Target: &target,
		Argv:   []string{"python3", "-c", "print(6 * 7)"},
	})
	check(err)
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var event struct {
			Type    string
			Channel int
			Content string
			Exit    int
		}
		check(json.Unmarshal(lines.Bytes(), &event))
		switch {
		case event.Type == "output" && event.Channel == 1:
			content, err := base64.StdEncoding.DecodeString(event.Content)
			check(err)
			printed += string(content)
		case event.Type == "ended":
			exit = event.Exit
		}
	}
	check(lines.Err())
	return printed, exit
}
