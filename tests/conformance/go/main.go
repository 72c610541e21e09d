// Verifies a log with the libraries of the Go checksum database: go run . DIR|URL [TOKEN]
//
// FROM is the minimum index of a log that was pruned: bundles before it are not asked for, and their hashes stand for them.
// Every entry is hashed and compared, the root is computed from the tiles, and entries and older sizes are proven.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

var source, token string
var from int64

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "NOT VERIFIED:", err)
		os.Exit(1)
	}
}

func fetch(name string) ([]byte, error) {
	if !strings.HasPrefix(source, "http") {
		return os.ReadFile(filepath.Join(source, name))
	}
	request, err := http.NewRequest("GET", source+"/"+name, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", name, response.Status)
	}
	return io.ReadAll(response.Body)
}

// name turns a path of the checksum database into one of C2SP tlog-tiles.
func name(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	return "tile/" + strings.Replace(path, "data/", "entries/", 1)
}

type reader struct{}

func (reader) Height() int                          { return height }
func (reader) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := fetch(name(tile))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func entries(size int64) [][]byte {
	var all [][]byte
	for first := from; first < size; first += 256 {
		tile := tlog.Tile{H: height, L: -1, N: first / 256, W: int(min(256, size-first))}
		data, err := fetch(name(tile))
		must(err)
		for len(data) > 0 {
			length := int(binary.BigEndian.Uint16(data))
			all = append(all, data[2:2+length])
			data = data[2+length:]
		}
	}
	return all
}

func main() {
	source = strings.TrimSuffix(os.Args[1], "/")
	if len(os.Args) > 2 {
		token = os.Args[2]
	}
	var vkey []byte
	var err error
	if text := os.Getenv("FROM"); text != "" {
		_, err = fmt.Sscan(text, &from)
		must(err)
	}
	if path := os.Getenv("VKEY"); path != "" {
		vkey, err = os.ReadFile(path)
	} else {
		vkey, err = fetch("log.vkey")
	}
	must(err)
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	must(err)
	signed, err := fetch("checkpoint")
	must(err)
	opened, err := note.Open(signed, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() {
		must(fmt.Errorf("origin %q, key of %q", lines[0], verifier.Name()))
	}
	var size int64
	_, err = fmt.Sscan(lines[1], &size)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	all := entries(size)
	if from+int64(len(all)) != size {
		must(fmt.Errorf("%d entries from %d on, %d are signed", len(all), from, size))
	}
	if size == 0 {
		fmt.Printf("verified: 0 entries of %s\n", lines[0])
		return
	}
	tree := tlog.Tree{N: size, Hash: root}
	hashes := tlog.TileHashReader(tree, reader{})
	computed, err := tlog.TreeHash(size, hashes)
	must(err)
	if computed != root {
		must(fmt.Errorf("the tiles lead to another root"))
	}
	var indexes []int64
	for i := int64(0); i < size; i++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, i))
	}
	leaves, err := hashes.ReadHashes(indexes)
	must(err)
	for i, entry := range all {
		if at := from + int64(i); tlog.RecordHash(entry) != leaves[at] {
			must(fmt.Errorf("entry %d is not the one that was signed", at+1))
		}
	}
	step := max(1, size/16)
	for i := int64(0); i < size; i += step {
		proof, err := tlog.ProveRecord(size, i, hashes)
		must(err)
		must(tlog.CheckRecord(proof, size, root, i, leaves[i]))
		old, err := tlog.TreeHash(i+1, hashes)
		must(err)
		growth, err := tlog.ProveTree(size, i+1, hashes)
		must(err)
		must(tlog.CheckTree(growth, size, root, i+1, old))
	}
	proofs(size, root, leaves)
	fmt.Printf("verified: %d entries of %s\n", len(all), lines[0])
}

// proofs checks the offline proofs beside the tiles with CheckRecord. One of a pruned entry does not carry it.
func proofs(size int64, root tlog.Hash, leaves []tlog.Hash) {
	files, _ := filepath.Glob(filepath.Join(source, "proofs", "*.tlog-proof"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(err)
		head, _, _ := bytes.Cut(data, []byte("\n\n"))
		var index int64
		var proof tlog.RecordProof
		var entry []byte
		for _, line := range strings.Split(string(head), "\n")[1:] {
			switch {
			case strings.HasPrefix(line, "extra "):
				entry = decode(strings.TrimPrefix(line, "extra "))
			case strings.HasPrefix(line, "index "):
				_, err = fmt.Sscan(strings.TrimPrefix(line, "index "), &index)
				must(err)
			default:
				hash, err := tlog.ParseHash(line)
				must(err)
				proof = append(proof, hash)
			}
		}
		leaf := leaves[index]
		if entry != nil {
			leaf = tlog.RecordHash(entry)
		}
		must(tlog.CheckRecord(proof, size, root, index, leaf))
	}
}
