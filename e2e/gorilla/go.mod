// The chat backend of the end-to-end tests: nothing here but the pin of gorilla/websocket's own example.
module github.com/tideover/tideover/e2e/gorilla

go 1.26.0

tool github.com/gorilla/websocket/examples/chat

require github.com/gorilla/websocket v1.5.3 // indirect
