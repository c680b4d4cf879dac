// Asks a schema registry with franz-go's client: main URL KEY SUBJECT HEX-OF-A-RECORD. Prints what it found as JSON.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	registry := must(sr.NewClient(sr.URLs(os.Args[1]), sr.BearerToken(os.Args[2])))
	subjects := must(registry.Subjects(ctx))
	latest := must(registry.SchemaByVersion(ctx, os.Args[3], -1))
	var header sr.ConfluentHeader
	id, avro, err := header.DecodeID(must(hex.DecodeString(os.Args[4])))
	must(id, err)
	schema := must(registry.SchemaByID(ctx, id))
	_, missing := registry.SchemaByID(ctx, 4711)
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"subjects": subjects, "id": latest.ID, "version": latest.Version,
		"record": id, "left": len(avro), "schema": schema.Schema, "missing": fmt.Sprint(missing),
	})
}
